"""Shell. What tiers below a cache are worth: how fast blocks go down and come back, and how soon the first token is.

    python -m bench.tiers [--mib 256] [--rounds 5] [--tokens 1024] [--folder DIR]

Blocks are those of a model of a billion weights (16 layers, 8 heads of 64, 16 tokens, float32: 1 MiB). Every round
moves all of them once each way, beside a plain memcpy of as many bytes and a plain read; ratios are of medians.
"down" is what the engine's thread spends on `spill`, "back" is from `seek` to the last byte in the engine's own memory.
"cold" is after the system was told to forget the files. Then the model that comes along answers a prompt that is
computed, that is in its cache, and that comes from each tier: the time from `submit` to the first token, and how much
of it the processor was at work.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from nodes.contract.engine import Job, Sampling
from nodes.engines.numpy.engine import NumpyEngine, Settings
from nodes.folder import folder_of
from nodes.tiers.options import read
from nodes.tiers.tiers import Tiers, open_tiers
from nodes.transfer.layout import Layout
from proto.limits import MIB

LAYOUT = Layout(16, 16, 8, 64, "float32")
PATIENCE_S = 60.0
TIERS = ("host", "disk", "disk, cold", "store")
SEED = 11


class Speed(msgspec.Struct):
    """Of one tier."""

    tier: str
    down_gb_s: float  # median
    back_gb_s: float
    back_to_memcpy: float
    back_cpu_s_per_gib: float  # of all threads


class First(msgspec.Struct):
    """The first token of a prompt."""

    prompt: str  # where it comes from
    ms: float  # median
    cpu_ms: float
    prefilled: int  # positions that were computed


class Below:
    """Tiers, and the memory of an engine."""

    def __init__(self, blocks: int, room: int, disk: str = "", store: str = "") -> None:
        asked = read(room * LAYOUT.block_bytes, disk, store, 2)
        assert asked is not None
        self.tiers: Tiers = open_tiers(asked, LAYOUT, "bench", "")
        self.memory = np.random.default_rng(SEED).integers(0, 255, (blocks, LAYOUT.block_bytes), np.uint8)
        self.news = threading.Event()
        self.tiers.attach(lambda block, out: np.copyto(np.frombuffer(out, np.uint8), self.memory[block]))
        self.tiers.on_news(lambda has_arrived: self.news.set())
        for name in range(room):  # the first touch of memory is slow, and comes once: it is none of our figures
            self.tiers.spill(name, 0, 0)

    def down(self, names: Sequence[int]) -> float:
        """Spill all; how long that took the engine."""
        for _ in range(2):  # often enough to be written down
            self.tiers.seek("down", 0, names, len(names))
        parents = [0, *names]
        began = time.perf_counter()
        for block in reversed(range(len(names))):
            self.tiers.spill(names[block], parents[block], block)
        return time.perf_counter() - began

    def back(self, names: Sequence[int]) -> float:
        """Restore all; how long that took."""
        began = time.perf_counter()
        self.tiers.seek("back", 0, names, 0)
        while self.tiers.waits("back"):
            assert self.news.wait(PATIENCE_S), "nothing came"
            self.news.clear()
        found = self.tiers.ready("back", names)
        for block, source in enumerate(found):
            np.copyto(self.memory[block], np.frombuffer(source, np.uint8))
        self.tiers.leave("back")
        assert len(found) == len(names), f"only {len(found)} of {len(names)} blocks came back"
        return time.perf_counter() - began

    def written(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while any(fact.get("unwritten") for fact in self.tiers.facts().values()):
            assert time.monotonic() < end, "it is not written"
            time.sleep(0.01)


def names_of(count: int, draw: random.Random) -> list[int]:
    return [draw.getrandbits(64) for _ in range(count)]


def once(tier: str, blocks: int, draw: random.Random, folder: Path) -> tuple[float, float, float]:
    """One tier: down and back, and what back costs in processor time."""
    names = names_of(blocks, draw)
    where = {"disk": "", "store": ""}
    if tier.startswith("disk"):
        where["disk"] = f"{folder / 'disk'}:1T"
    elif tier == "store":
        where["store"] = f"dir:{folder / 'store'}"
    one = Below(blocks, 2 * blocks, **where)
    try:
        down_s = one.down(names)
        one.written()
    finally:
        one.tiers.close()
    if tier == "host":
        one = Below(blocks, 2 * blocks)
        one.down(names)
    else:  # another worker, whose host memory is empty
        if tier == "disk, cold":
            forget(folder)
        one = Below(blocks, 2 * blocks, **where)
        wait_scanned(one, blocks if tier.startswith("disk") else 0)
    began = time.process_time()
    try:
        return down_s, one.back(names), time.process_time() - began
    finally:
        one.tiers.close()


def wait_scanned(one: Below, blocks: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while blocks > one.tiers.facts().get("disk", {}).get("blocks", 0):
        assert time.monotonic() < end, "the disk is not looked through"
        time.sleep(0.01)


def forget(folder: Path) -> None:
    """Have the system forget what is in these files."""
    for path in folder.glob("**/*.kv"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def speeds(mib: int, rounds: int, folder: Path) -> tuple[dict[str, float], list[Speed]]:
    """GB/s of a memcpy, of a plain read, and of each tier."""
    draw, count = random.Random(SEED), mib * MIB // LAYOUT.block_bytes
    size = count * LAYOUT.block_bytes
    source, target = np.full(size, 7, np.uint8), np.full(size, 8, np.uint8)
    plain = folder / "plain"
    plain.write_bytes(source.tobytes())
    walls: dict[str, list[tuple[float, float, float]]] = {tier: [] for tier in ("memcpy", "read", *TIERS)}
    for _ in range(rounds):
        walls["memcpy"].append((0.0, timed(lambda: np.copyto(target, source)), 0.0))
        walls["read"].append((0.0, timed(lambda: read_all(plain, target)), 0.0))
        for tier in TIERS:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                walls[tier].append(once(tier, count, draw, Path(place)))
    plain.unlink()
    back = {name: size / statistics.median(one[1] for one in found) / 1e9 for name, found in walls.items()}
    down = {name: size / statistics.median(one[0] for one in walls[name]) / 1e9 for name in TIERS}
    cpu = {name: statistics.median(one[2] for one in walls[name]) / size * (1 << 30) for name in TIERS}
    found = [Speed(tier, down[tier], back[tier], back[tier] / back["memcpy"], cpu[tier]) for tier in TIERS]
    return {"memcpy": back["memcpy"], "read": back["read"]}, found


def read_all(path: Path, target: "np.typing.NDArray[np.uint8]") -> None:
    with path.open("rb") as file:
        file.readinto(target.data)


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# --- The first token ---------------------------------------------------------------------------------------------


class Served:
    """The model that comes along, over tiers or without."""

    def __init__(self, tokens: int, host_bytes: int = 0, disk: str = "") -> None:
        self.engine = NumpyEngine(Settings(str(folder_of("demo")), slots=1, step_tokens=512, cache_bytes=1 << 30))
        card = self.engine.start()
        self.tokens = min(tokens, card.context - 2)
        self.vocabulary = card.vocabulary
        self.news = threading.Event()
        self.tiers: Tiers | None = None
        if host_bytes:
            asked = read(host_bytes, disk, "", 1)
            assert asked is not None and card.layout is not None
            self.tiers = open_tiers(asked, card.layout, "demo", "")
            self.tiers.on_news(lambda has_arrived: self.news.set())
            self.engine.attach(self.tiers)

    def prompt(self, draw: random.Random) -> list[int]:
        return [draw.randrange(10, self.vocabulary) for _ in range(self.tokens)]

    def first(self, prompt: list[int]) -> tuple[float, float, int]:
        """Until the first token: by the clock, by the processor, and how many positions were computed for it."""
        engine, prefilled = self.engine, 0
        began, cpu_began = time.perf_counter(), time.process_time()
        refusal = engine.submit(Job("job", prompt, max_tokens=1, ignore_eos=True, sampling=Sampling(temperature=0.0)))
        assert refusal is None, refusal
        while True:
            if engine.idle():
                assert self.news.wait(PATIENCE_S), "nothing came"
            if self.news.is_set():
                self.news.clear()
                engine.stir()
            step = engine.step()
            prefilled += step.prefilled_tokens
            if any(output.tokens for output in step.outputs):
                return time.perf_counter() - began, time.process_time() - cpu_began, prefilled

    def turn_out(self) -> None:
        """The cache has no room for what it has, and all of it goes below."""
        pool = self.engine._running.pool
        taken = [pool.take() for _ in range(pool.free)]
        pool.release(taken)

    @property
    def on_disk(self) -> int:
        """Blocks that it knows of there."""
        return int(self.tiers.facts()["disk"]["blocks"]) if self.tiers is not None else 0

    def look_through(self, blocks: int) -> None:
        """Until it knows what another one left on the disk."""
        deadline = time.monotonic() + PATIENCE_S
        while self.on_disk < blocks and time.monotonic() < deadline:
            os.sched_yield()

    def close(self) -> None:
        self.engine.stop()
        if self.tiers is not None:
            self.tiers.close()


def first_tokens(tokens: int, rounds: int, folder: Path) -> list[First]:
    """Computed, cached, and from each tier."""
    draw = random.Random(SEED)
    found: dict[str, list[tuple[float, float, int]]] = {
        "computed": [],
        "in the cache": [],
        "from host": [],
        "from disk": [],
    }
    for number in range(rounds):
        disk = f"{folder / str(number)}:1T"
        one = Served(tokens, 1 << 28, disk)
        prompt = one.prompt(draw)
        one.first(one.prompt(draw))  # warm
        found["computed"].append(one.first(prompt))
        found["in the cache"].append(one.first(prompt))
        one.turn_out()
        found["from host"].append(one.first(prompt))
        one.close()
        other = Served(tokens, 1 << 28, disk)
        other.look_through(one.on_disk)
        other.first(other.prompt(draw))
        found["from disk"].append(other.first(prompt))
        other.close()
    return [
        First(
            name,
            statistics.median(wall for wall, _, _ in walls) * 1e3,
            statistics.median(cpu for _, cpu, _ in walls) * 1e3,
            walls[-1][2],
        )
        for name, walls in found.items()
    ]


def main(arguments: list[str]) -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description="What tiers below a cache are worth.")
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="where the files are (default: the system's temporary directory)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        plain, moved = speeds(options.mib, options.rounds, Path(place))
        firsts = first_tokens(options.tokens, options.rounds, Path(place))
    if options.json:
        print(
            json.dumps({"plain_gb_s": plain, "tiers": msgspec.to_builtins(moved), "ttft": msgspec.to_builtins(firsts)})
        )
        return 0
    print(
        f"{options.mib} MiB in blocks of 1 MiB; memcpy {plain['memcpy']:.2f} GB/s, plain read {plain['read']:.2f} GB/s"
    )
    print(f"{'tier':<12}{'down GB/s':>12}{'back GB/s':>12}{'of memcpy':>12}{'CPU s/GiB':>12}")
    for one in moved:
        row = f"{one.down_gb_s:>12.2f}{one.back_gb_s:>12.2f}{one.back_to_memcpy:>12.0%}"
        print(f"{one.tier:<12}{row}{one.back_cpu_s_per_gib:>12.2f}")
    print(f"\nfirst token of {options.tokens} tokens, the demo model on this CPU")
    for first in firsts:
        print(f"{first.prompt:<14}{first.ms:>10.1f} ms{first.cpu_ms:>10.1f} ms CPU{first.prefilled:>8} computed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
