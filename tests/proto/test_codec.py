"""Bytes to messages and back, with `msgpack` as the oracle: it shares no line of code with the codec."""

from time import perf_counter
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.fuzz_codec import fuzz, samples
from proto import codec, limits
from proto.basics import Message
from proto.errors import Reason, RemoteError
from proto.messages import MESSAGES, OPTIONAL_TAG_MAX, OPTIONAL_TAG_MIN, Ignored, Ping, Submit, Sync
from tests.strategies import messages, plain, required, smallest

SEQUENCES = st.integers(1, limits.SEQUENCE_MAX)
REFUSALS = (Reason.MALFORMED, Reason.UNSUPPORTED)


def pack(value: Any) -> bytes:
    packed = msgpack.packb(value, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def unpack(frame: bytes) -> Any:
    return msgpack.unpackb(frame, raw=False, strict_map_key=False)


def refusal(frame: bytes) -> Reason:
    """Why the codec refuses a frame."""
    with pytest.raises(RemoteError) as refused:
        codec.decode(frame)
    return refused.value.reason


def any_outcome(frame: bytes) -> None:
    """A message, or one of two refusals; anything else that comes out is a bug and fails the test."""
    try:
        sequence, message = codec.decode(frame)
    except RemoteError as error:
        refused = error.reason
        assert refused in REFUSALS
    else:
        assert 1 <= sequence <= limits.SEQUENCE_MAX
        assert isinstance(message, Ignored) or codec.decode(codec.encode(sequence, message)) == (sequence, message)


# --- Both ways, against the oracle ------------------------------------------------------------------


@given(SEQUENCES, messages())
def test_what_we_write_msgpack_reads(sequence: int, message: Message) -> None:
    assert unpack(codec.encode(sequence, message)) == [sequence, plain(message)]


@given(SEQUENCES, messages())
def test_what_msgpack_writes_we_read(sequence: int, message: Message) -> None:
    assert codec.decode(pack([sequence, plain(message)])) == (sequence, message)


@given(SEQUENCES, messages())
def test_round_trip(sequence: int, message: Message) -> None:
    assert codec.decode(codec.encode(sequence, message)) == (sequence, message)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_kind(kind: type[Message]) -> None:
    """Hypothesis may leave a kind out of a short run; this does not."""
    message = smallest(kind)
    assert unpack(codec.encode(1, message)) == [1, plain(message)]
    assert codec.decode(pack([1, plain(message)])) == (1, message)
    assert codec.TAGS[plain(message)[0]] is kind


# --- Old and new versions ---------------------------------------------------------------------------


@given(messages(), st.lists(st.one_of(st.none(), st.integers(0, 9), st.text(), st.lists(st.none()))))
def test_fields_of_a_newer_version_are_ignored(message: Message, appended: list[Any]) -> None:
    assert codec.decode(pack([1, plain(message) + appended])) == (1, message)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_fields_that_an_older_version_lacks_get_their_defaults(kind: type[Message]) -> None:
    least = smallest(kind)
    names = kind.__struct_fields__
    for count in range(required(kind), len(names) + 1):
        fields = {name: getattr(least, name) for name in names[:count]}
        assert codec.decode(pack([1, plain(least)[: 1 + count]])) == (1, kind(**fields))
    if required(kind):
        assert refusal(pack([1, plain(least)[: required(kind)]])) is Reason.MALFORMED


@pytest.mark.parametrize("tag", [*range(OPTIONAL_TAG_MIN, OPTIONAL_TAG_MAX + 1)])
def test_an_optional_message_that_we_do_not_know_is_ignored_with_its_number(tag: int) -> None:
    if tag not in codec.TAGS:
        assert codec.decode(pack([7, [tag, "new", {"a": 1}]])) == (7, Ignored(tag))


@pytest.mark.parametrize("tag", [0, 9, 15, 28, 95, 128, 2**31, 2**63, -1, -(2**40)])
def test_a_critical_message_that_we_do_not_know_is_unsupported(tag: int) -> None:
    assert refusal(pack([7, [tag, "new"]])) is Reason.UNSUPPORTED


def test_an_optional_message_that_we_do_not_know_may_not_be_large() -> None:
    assert len(unknown(2)) == limits.UNKNOWN_TAG_BYTES_MAX
    assert codec.decode(unknown(2)) == (1, Ignored(OPTIONAL_TAG_MAX))
    assert refusal(unknown(3)) in REFUSALS


def unknown(nils: int) -> bytes:
    """A well-formed optional message of 64 KiB - 2 and as many bytes as `nils`."""
    fields = b"\xc0" * nils + b"\xc5\xff\xf7" + b"x" * 0xFFF7
    return b"\x92\x01" + bytes((0x92 + nils, OPTIONAL_TAG_MAX)) + fields


def test_an_unknown_message_needs_a_valid_number() -> None:
    for sequence in (0, -1, limits.SEQUENCE_MAX + 1, "1", None, 1.0):
        assert refusal(pack([sequence, [OPTIONAL_TAG_MAX]])) is Reason.MALFORMED


# --- Any bytes --------------------------------------------------------------------------------------


@given(st.binary(max_size=400))
@example(b"")
def test_any_bytes(frame: bytes) -> None:
    any_outcome(frame)


@given(st.recursive(st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary(), st.lists), SEQUENCES)
def test_any_well_formed_value(value: Any, sequence: int) -> None:
    any_outcome(pack(value))
    any_outcome(pack([sequence, value]))


@given(messages(), st.integers(0, 119), st.data())
def test_a_known_message_with_a_wrong_number(message: Message, tag: int, data: st.DataObject) -> None:
    any_outcome(pack([1, [tag, *plain(message)[1:]]]))


@pytest.mark.parametrize("message", samples(), ids=lambda message: type(message).__name__)
def test_every_prefix_is_refused(message: Message) -> None:
    frame = codec.encode(1, message)
    for end in range(len(frame)):
        assert refusal(frame[:end]) is Reason.MALFORMED, end
    assert refusal(frame + b"\0") is Reason.MALFORMED


@pytest.mark.parametrize("message", samples(), ids=lambda message: type(message).__name__)
def test_every_bit_flip(message: Message) -> None:
    frame = bytearray(codec.encode(1, message))
    for bit in range(8 * min(len(frame), 400)):
        frame[bit // 8] ^= 1 << bit % 8
        any_outcome(bytes(frame))
        frame[bit // 8] ^= 1 << bit % 8


DEPTH = 100_000
FRAME = limits.FRAME_BYTES_MAX
HOSTILE: dict[str, bytes] = {
    "nested arrays": b"\x91" * DEPTH,
    "nested arrays of two": b"\x92" * DEPTH,
    "nested maps": b"\x81\x01" * DEPTH,
    "nested in an envelope": b"\x92\x01" + b"\x91" * DEPTH,
    "nested behind the last field": b"\x92\x01\x95\x03\x01\x01\x01" + b"\x91" * DEPTH + b"\xc0",
    "nested in an unknown message": b"\x92\x01\x92\x64" + b"\x91" * 60_000 + b"\xc0",
    "nested maps in an unknown message": b"\x92\x01\x92\x64" + b"\x81\x01" * 30_000 + b"\xc0",
    "claims 4 G elements": b"\xdd\xff\xff\xff\xff",
    "claims 4 G fields": b"\x92\x01\xdd\xff\xff\xff\xff\x03",
    "claims 4 G parts": b"\x92\x01\x92\x13\xdd\xff\xff\xff\xff",
    "claims 4 Gi of bytes": b"\x92\x01\x97\x10\x01\x01\x01\x01\xa1a\xc6\xff\xff\xff\xff",
    "claims 4 Gi of text": b"\x92\x01\x92\x01\xdb\xff\xff\xff\xff",
    "claims 4 G entries": b"\x92\x01\x9c\x10\x01\x01\x00\x00\xa1a\xc4\x00\x90\xc0\x00\xa0\xdf\xff\xff\xff\xff",
    "claims 4 G in an unknown message": b"\x92\x01\x92\x64\xdd\xff\xff\xff\xff",
    "a frame of nils": b"\xc0" * FRAME,
    "an array of nils": b"\xdd" + (FRAME - 5).to_bytes(4, "big") + b"\xc0" * (FRAME - 5),
    "nils for parts": b"\x92\x01\x92\x13\xdd" + (FRAME - 9).to_bytes(4, "big") + b"\xc0" * (FRAME - 9),
    "nils for legs": b"\x92\x01\x93\x05\x01\xdd\x00\x01\x00\x00" + b"\xc0" * (FRAME - 10),
    "bad UTF-8": b"\x92\x01\x92\x08\x01\x01\xa2\xff\xfe",
    "bad UTF-8 in a magic": b"\x92\x01\x98\x01\xa1\xff\x01\x01\x01\x01\x01\x90",
    "surrogate in text": b"\x92\x01\x94\x08\x01\x01\xa3\xed\xa0\x80",
    "bad UTF-8 in an unknown message": b"\x92\x01\x92\x64\xa1\xff",
    "an Ext for a number": b"\x92\x01\x92\x03\xd4\x01\x01",
    "a timestamp for a number": b"\x92\x01\x92\x03\xd6\xff\x00\x00\x00\x00",
    "a bad timestamp behind the last field": b"\x92\x01\x95\x03\x01\x01\x01\xd7\xff" + b"\xff" * 8,
    "an Ext as the message": b"\x92\x01\xc7\xff\x05",
    "the reserved byte": b"\x92\x01\xc1",
    "a map as the message": b"\x92\x01\x81\x00\x03",
    "a text as the tag": b"\x92\x01\x92\xa4Ping\x01",
    "no tag": b"\x92\x01\x90",
    "a float as the number": b"\x92\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\x92\x03\x01",
    "a negative clock": b"\x92\x01\x92\x03\xff",
}


@pytest.mark.parametrize("frame", HOSTILE.values(), ids=HOSTILE)
def test_hostile_frames_are_cheap(frame: bytes) -> None:
    """A real frame of 8 MiB takes 50 ms to skip over; nothing may take more than a few of those."""
    before = perf_counter()
    any_outcome(frame)
    assert perf_counter() - before < 0.5


def test_a_frame_of_nils_behind_a_message_takes_no_memory() -> None:
    """They are fields of a newer version: ignored, not kept."""
    count = limits.FRAME_BYTES_MAX - 8
    frame = b"\x92\x01\xdd" + count.to_bytes(4, "big") + b"\x03\x01\x01\x01" + b"\xc0" * (count - 4)
    assert codec.decode(frame) == (1, Ping(1, 1, 1))


def test_keys_that_are_no_text() -> None:
    fields = plain(smallest(Submit))
    for key in (1, None, b"key", True):
        assert refusal(pack([1, [*fields[:-4], {key: "value"}]])) is Reason.MALFORMED
    assert codec.decode(pack([1, [*fields[:-4], {"key": "value"}]]))[1] == Submit(
        0, 1, 0, 0, "", metadata={"key": "value"}
    )


@pytest.mark.parametrize("sequence", [0, -1, limits.SEQUENCE_MAX + 1, 2**64 - 1])
def test_numbers_of_a_session_are_bounded(sequence: int) -> None:
    assert refusal(pack([sequence, plain(Sync(1))])) is Reason.MALFORMED


def test_twenty_thousand_mutated_frames() -> None:
    outcome = fuzz(frames=20_000, seed=1)
    assert not outcome.escapes
    assert sum(outcome.counts.values()) == 20_000
    assert min(outcome.counts[name] for name in ("message", "malformed", "unsupported", "ignored")) > 0


# --- Tokens -----------------------------------------------------------------------------------------

TOKEN_LISTS = st.lists(st.integers(0, limits.TOKEN_ID_MAX), max_size=2 * limits.TOKENS_PACKED_MIN)


@given(TOKEN_LISTS)
@example([limits.TOKEN_ID_MAX] * limits.TOKENS_PACKED_MIN)
def test_tokens_come_back(tokens: list[int]) -> None:
    packed = codec.pack(tokens)
    assert codec.unpack(packed) == tokens
    assert codec.count(packed) == len(tokens)
    assert isinstance(packed, bytes) == (len(tokens) >= limits.TOKENS_PACKED_MIN)


def test_packed_tokens_are_little_endian() -> None:
    packed = codec.pack([1, 0x01020304] * limits.TOKENS_PACKED_MIN)
    assert packed == b"\x01\0\0\0\x04\x03\x02\x01" * limits.TOKENS_PACKED_MIN


@pytest.mark.parametrize("packed", [b"1", b"\0\0\0", b"\0" * 5, b"\0\0\0\x80", b"\1\0\0\0\xff\xff\xff\xff"])
def test_bytes_that_are_no_tokens_are_refused(packed: bytes) -> None:
    with pytest.raises(RemoteError) as refused:
        codec.unpack(packed)
    assert refused.value.reason is Reason.MALFORMED


def test_no_tokens() -> None:
    assert codec.unpack(b"") == codec.unpack([]) == []
