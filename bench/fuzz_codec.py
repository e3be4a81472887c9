"""Shell. Mutated frames against the codec: a message or a RemoteError comes out, or this run fails.

    python -m bench.fuzz_codec --frames 1000000 --seed 1

Frames are made by mutating real ones, because random bytes die at the first byte. The same seed gives the same
frames. An escape (any other exception) is printed with its frame, and the exit status is 1.
"""

from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from time import perf_counter
from typing import NamedTuple

from proto import codec
from proto.basics import LegName, Message
from proto.errors import RemoteError
from proto.messages import (
    Accept,
    Bye,
    Cancel,
    Cancelled,
    Chunk,
    Credit,
    Drain,
    End,
    Error,
    Gossip,
    Grant,
    Hello,
    Ignored,
    Load,
    Migrate,
    Offer,
    Part,
    Ping,
    Pong,
    Record,
    Reject,
    Reset,
    Resume,
    Submit,
    Sync,
    Welcome,
)
from proto.version import FEATURES, MAGIC, VERSION

MUTATIONS_MAX = 4  # per frame: more, and nothing is left of what it was
LENGTHS = (
    b"\xc4\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xd9\xff",
    b"\xdb\x7f\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xdd\xff\xff\xff\xff",
)
MORE_LENGTHS = (b"\x9f", b"\x8f", b"\xbf", b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc8\xff\xff\x01", b"\xd8\x01")
CLAIMS = LENGTHS + MORE_LENGTHS
ESCAPES_KEPT = 10


class Outcome(NamedTuple):
    """What came of a run."""

    counts: Counter[str]
    escapes: list[tuple[bytes, str]]


def samples() -> list[Message]:
    """One real message of each kind, with something in every field."""
    record = Record(
        2**63, "blue", b"12345678", "left", 10**18, "host", ["ipc:///x", "tcp://1.2.3.4:5"], ["a.b.c"], True, 3
    )
    tokens, resume = [1, 70_000, 2**31 - 1], Resume(3, codec.pack(list(range(40))), b"state")
    offers = [Offer("a.b.c", True, 4), Offer("a.b.d")]
    part, items = Part(2**40, 2, 5, tokens), Part(7, 1, 300, [], [b"one", b"", b"x" * 300], b"checkpoint")
    session: list[Message] = [
        Hello(MAGIC, VERSION, VERSION, 2**50, 2**60, 3, record, offers, list(FEATURES), 500, True),
        Welcome(VERSION, 2**50, 2**63),
        Ping(123_456_789, 2, 2**64 - 1),
        Pong(123_456_789, 99, Load(3, 2, 8), 12, True),
        Sync(5, [LegName(1, 1), LegName(2, 3)]),
        Drain(30_000),
        Bye(13),
        Reset(2**50, 7, "a gap"),
    ]
    requests: list[Message] = [
        Submit(
            1, 2, 3, 259, "a.b.c", b"payload", tokens, resume, 60_000, "00-trace", {"tenant": "t", "ключ": "значение"}
        ),
        Accept(1, 2, 3, 4),
        Reject(1, 2, 3, 32, 100, "busy"),
        Chunk([part, items]),
        Credit([Grant(1, 2, 515), Grant(2, 1, 600)]),
        End(1, 2, 77, 49),
        Error(1, 2, 77, 52, True, "ValueError", "no such thing"),
        Cancel(1, 2, 77, 2, 50),
        Cancelled(1, 2, 78, 1, 2),
        Migrate(1, 2, 78, 66, resume),
    ]
    return [*session, *requests, Gossip([record, record])]


# --- Mutations: a frame and another one to a worse one ------------------------------------------------


def flip(frame: bytearray, other: bytes, random: Random) -> None:
    """One bit."""
    frame[random.randrange(len(frame))] ^= 1 << random.randrange(8)


def overwrite(frame: bytearray, other: bytes, random: Random) -> None:
    """One byte."""
    frame[random.randrange(len(frame))] = random.randrange(256)


def insert(frame: bytearray, other: bytes, random: Random) -> None:
    """A few bytes more."""
    at = random.randrange(len(frame) + 1)
    frame[at:at] = random.randbytes(random.randint(1, 4))


def delete(frame: bytearray, other: bytes, random: Random) -> None:
    """A few bytes less."""
    at = random.randrange(len(frame))
    del frame[at : at + random.randint(1, 4)]


def truncate(frame: bytearray, other: bytes, random: Random) -> None:
    """The rest is missing."""
    del frame[random.randrange(len(frame)) :]


def splice(frame: bytearray, other: bytes, random: Random) -> None:
    """It goes on as another one."""
    frame[random.randrange(len(frame)) :] = other[random.randrange(len(other)) :]


def claim(frame: bytearray, other: bytes, random: Random) -> None:
    """Something says that it is longer than the frame."""
    at = random.randrange(len(frame))
    frame[at : at + 1] = random.choice(CLAIMS)


def retag(frame: bytearray, other: bytes, random: Random) -> None:
    """Another message number, known or not."""
    if len(frame) > 3:
        frame[3] = random.randrange(128)


MUTATIONS: Sequence[Callable[[bytearray, bytes, Random], None]] = (
    *(flip, overwrite, insert, delete, truncate, splice, claim, retag),
)


def mutated(frames: Sequence[bytes], random: Random) -> bytes:
    """A real frame, one to four times changed."""
    frame = bytearray(random.choice(frames))
    for _ in range(random.randint(1, MUTATIONS_MAX)):
        if frame:
            random.choice(MUTATIONS)(frame, random.choice(frames), random)
    return bytes(frame)


def outcome(frame: bytes) -> str:
    """What the codec makes of a frame: `message`, `ignored`, or the reason of its refusal."""
    try:
        message = codec.decode(frame)[1]
    except RemoteError as error:
        return error.reason.label
    return "ignored" if isinstance(message, Ignored) else "message"


def fuzz(frames: int, seed: int) -> Outcome:
    """Decode that many mutated frames."""
    random = Random(seed)
    real = [codec.encode(number, message) for number, message in enumerate(samples(), 1)]
    counts: Counter[str] = Counter()
    escapes: list[tuple[bytes, str]] = []
    for _ in range(frames):
        frame = mutated(real, random)
        try:
            counts[outcome(frame)] += 1
        except Exception as error:
            counts["escaped"] += 1
            if len(escapes) < ESCAPES_KEPT:
                escapes.append((frame, repr(error)))
    return Outcome(counts, escapes)


def main(words: Sequence[str] | None = None) -> int:
    """The command; the exit status."""
    parser = ArgumentParser(prog="python -m bench.fuzz_codec", description="Mutated frames against the codec.")
    parser.add_argument("--frames", type=int, default=1_000_000, help="how many; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same frames; default: %(default)s")
    options = parser.parse_args(words)
    before = perf_counter()
    counts, escapes = fuzz(options.frames, options.seed)
    elapsed_s = perf_counter() - before
    rate = f"{options.frames / elapsed_s:,.0f} frames/s"
    print(f"{options.frames} frames in {elapsed_s:.1f} s ({rate}), seed {options.seed}")
    for name, count in sorted(counts.items()):
        print(f"  {name:12} {count:9}  {count / options.frames:6.1%}")
    for frame, error in escapes:
        print(f"ESCAPED {error}: {frame.hex()}")
    return 1 if escapes else 0


if __name__ == "__main__":
    raise SystemExit(main())
