"""Shell. What the router's index costs: time of a lookup and of a whole placement, events applied, memory of a block.

    python -m bench.index [--blocks 1000000] [--workers 64] [--peer ~/.cache/wiremesh-bench/venv-dynamo/bin/python]

The caches are those of conversations: all begin with one of 16 shared prefixes, each held by a quarter of the workers,
and go on alone. A prompt goes along one of them for a random length, and on with blocks that nobody has. Where Dynamo's
package is installed (`--peer` names the Python that has it) its `RadixTree` gets the same events and the same prompts
in the same run. Its lookup is a call from Python to Rust and back with the hashes as a list, its events come as JSON:
compare orders of magnitude.

Times are CPU time: of the thread that places, and of the whole process of the peer, whose tree has a thread of its own.
`calibration` is a loop of 64 dictionary lookups and sums; 6 us on the machine that our figures are from.
"""

import argparse
import contextlib
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from msgspec import Struct

from nodes.routing.advisor import Advisor, Asked
from nodes.routing.hashes import pack, unpack
from nodes.routing.knobs import Knobs
from proto.basics import LegName
from proto.placing import Blocks, Change, Kind, Settled, Wish

PREFIXES = 16
PREFIX_BLOCKS = 64
CHAIN_BLOCKS = (128, 512, 2048, 8192)  # own blocks of a conversation: 2k to 128k tokens
EVENT_BLOCKS = 32  # in one event: a prefill chunk of 512 tokens
LENGTHS = {"4k": 256, "32k": 2048, "128k": 8192}  # prompts, in blocks of 16 tokens
BLOCK_TOKENS = 16
PEER = Path("~/.cache/wiremesh-bench/venv-dynamo/bin/python").expanduser()
PEER_S = 1200.0  # it takes its events as JSON

Event = tuple[int, list[int], list[int]]  # worker, blocks before it in its chain, its blocks


class Spread(Struct):
    """Of times, in microseconds."""

    p50: float
    p99: float


class World:
    """Who holds what, and prompts that run along it. The same seed gives the same world."""

    def __init__(self, blocks: int, workers: int, seed: int = 1) -> None:
        self.random = Random(seed)
        self.workers = workers
        self.prefixes = [self.fresh(PREFIX_BLOCKS) for _ in range(PREFIXES)]
        self.chains: list[tuple[int, list[int], list[int]]] = []  # worker, prefix, own blocks
        self.size = PREFIXES * PREFIX_BLOCKS
        while self.size < blocks:
            worker = self.random.randrange(workers)
            prefix = self.random.choice(self.prefixes[worker % 4 :: 4])
            own = self.fresh(min(self.random.choice(CHAIN_BLOCKS), blocks - self.size))
            self.chains.append((worker, prefix, own))
            self.size += len(own)

    def fresh(self, count: int) -> list[int]:
        """Blocks that nobody has."""
        return [self.random.getrandbits(64) for _ in range(count)]

    def events(self) -> Iterator[Event]:
        """Everything stored, in an order that workers could have told it."""
        for number, prefix in enumerate(self.prefixes):
            for worker in range(number % 4, self.workers, 4):
                yield worker, [], prefix
        for worker, prefix, own in self.chains:
            for begin in range(0, len(own), EVENT_BLOCKS):
                yield worker, own[:begin] if begin else prefix, own[begin : begin + EVENT_BLOCKS]

    def prompt(self, length: int) -> list[int]:
        """As long as that, and known to somebody up to a random place."""
        _, prefix, own = self.random.choice(self.chains)
        known = [*prefix, *own][: self.random.randrange(length + 1)]
        return known + self.fresh(length - len(known))


def measure(call: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    call()
    return (clock() - begin) * 1e6


def spread(times: list[float]) -> Spread:
    times.sort()
    return Spread(round(times[len(times) // 2], 1), round(times[int(len(times) * 0.99)], 1))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def calibration() -> float:
    """The median cost of a fixed loop, in microseconds."""
    table = {number: number for number in range(64)}
    times = [measure(lambda: [table.get(number, 0) + 1.5 for number in range(64)], time.thread_time) for _ in range(99)]
    return spread(times).p50


def ours(world: World, prompts: int) -> dict[str, object]:
    """Our index and advisor."""
    advisor = Advisor(Knobs(), Random(2))
    nodes = tuple(range(1, world.workers + 1))
    for node in nodes:
        advisor.up(node, 0.0)
    messages = packed(world)
    gc.collect()
    before, begin = resident(), time.thread_time()
    for node, message in messages:
        advisor.heard(node, message, 0.0)
    spent = time.thread_time() - begin
    index = advisor.sources.index
    held = sum(one.blocks for one in advisor.sources.staleness(0.0))
    grown = resident() - before
    result: dict[str, object] = {
        "blocks": index.blocks,
        "events_per_s": round(len(messages) / spent),
        "blocks_per_s": round(held / spent),
        "bytes_per_block": round(grown / index.blocks, 1),
    }
    del messages
    gc.collect()
    gc.freeze()  # the table is no garbage: a collection in a lookup would look through all of it
    for name, length in {"warm-up": 256, **LENGTHS}.items():
        wishes = [Wish(pack(world.prompt(length)), length * BLOCK_TOKENS, BLOCK_TOKENS) for _ in range(prompts)]
        result[name] = {"lookup_us": lookups(advisor, wishes), "place_us": placements(advisor, wishes, nodes)}
    del result["warm-up"]
    result["retire_us"] = retirements(advisor, nodes)
    return result


def packed(world: World) -> list[tuple[int, Blocks]]:
    """The events as workers send them."""
    numbers: dict[int, int] = {}
    messages = []
    for worker, _, hashes in world.events():
        number = numbers[worker] = numbers.get(worker, 0) + 1
        messages.append((worker + 1, Blocks(0, number, number, [Change(Kind.STORED, pack(hashes))])))
    return messages


def lookups(advisor: Advisor, wishes: list[Wish]) -> Spread:
    """From the bytes of the prompt's hashes to what each worker has of it."""
    return spread([measure(partial(lookup, advisor, wish), time.thread_time) for wish in wishes])


def lookup(advisor: Advisor, wish: Wish) -> None:
    advisor.sources.overlaps(unpack(wish.hashes))


def placements(advisor: Advisor, wishes: list[Wish], nodes: tuple[int, ...]) -> Spread:
    """All that routing adds: lookup, loads, costs, choice, and the bookkeeping of the choice. 100 requests run."""
    times = []
    for number, wish in enumerate(wishes):
        asked = Asked(number + 1, 1, wish)
        times.append(measure(partial(advisor.place, asked, nodes, 1.0), time.thread_time))
        advisor.settled(Settled([LegName(number + 1, 1)], [LegName(number - 99, 1)] if number > 99 else []), 1.0)
        advisor.outbox.flush()
    advisor.settled(Settled(freed=[LegName(number + 1, 1) for number in range(len(wishes))][-100:]), 1.0)
    return spread(times)


def retirements(advisor: Advisor, nodes: tuple[int, ...]) -> Spread:
    """The pause when a worker goes away with all that it holds."""
    return spread([measure(partial(advisor.down, node), time.thread_time) for node in nodes])


# --- The peer ---------------------------------------------------------------------------------------------

PEER_PROGRAM = """
import json, sys, time
from dynamo._core import RadixTree
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
tree = RadixTree()
numbers = {}
blocks = events = 0
spent = 0.0
before = resident()
for line in sys.stdin:
    if line == "prompts\\n":
        break
    worker, parent, hashes = json.loads(line)
    numbers[worker] = number = numbers.get(worker, -1) + 1
    stored = {"parent_hash": parent, "blocks": [{"block_hash": name, "tokens_hash": name} for name in hashes]}
    event = json.dumps({"event_id": number, "data": {"stored": stored}, "dp_rank": 0}).encode()
    begin = time.process_time()
    tree.apply_event(worker, event)
    spent += time.process_time() - begin
    blocks += len(hashes)
    events += 1
grown = resident() - before
times = {}
for line in sys.stdin:
    name, hashes = json.loads(line)
    begin = time.process_time()
    scores = tree.find_matches(hashes).scores
    times.setdefault(name, []).append((time.process_time() - begin) * 1e6)
result = {"events_per_s": round(events / spent), "blocks_per_s": round(blocks / spent), "grown": grown}
for name, values in times.items():
    values.sort()
    spread = {"p50": round(values[len(values) // 2], 1), "p99": round(values[int(len(values) * 0.99)], 1)}
    result[name] = {"lookup_us": spread}
print(json.dumps(result))
"""


def peer(world: World, prompts: int, python: Path) -> dict[str, object]:
    """Dynamo's tree, in a process of its own."""
    process = subprocess.Popen(
        [str(python), "-c", PEER_PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        for worker, before, hashes in world.events():
            process.stdin.write(json.dumps((worker, before[-1] if before else None, hashes)) + "\n")
        process.stdin.write("prompts\n")
        for name, length in LENGTHS.items():
            for _ in range(prompts):
                process.stdin.write(json.dumps((name, world.prompt(length))) + "\n")
    answer, _ = process.communicate(timeout=PEER_S)
    if process.returncode:
        return {"failed": process.returncode}
    found: dict[str, object] = json.loads(answer)
    grown = found.pop("grown")
    assert isinstance(grown, int)
    return found | {"bytes_per_block": round(grown / world.size, 1)}


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.index", description=__doc__)
    parser.add_argument("--blocks", type=int, default=1_000_000, help="distinct ones")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=500, help="of each length")
    parser.add_argument("--peer", type=Path, default=PEER, help="a Python that has ai-dynamo; skipped if there is none")
    options = parser.parse_args(arguments)
    before = calibration()
    world = World(options.blocks, options.workers)
    result: dict[str, object] = {"blocks": world.size, "workers": options.workers}
    result["wiremesh"] = ours(world, options.prompts)
    if options.peer.exists():
        result["dynamo"] = peer(World(options.blocks, options.workers), options.prompts, options.peer)
    result["calibration_us"] = [before, calibration()]
    print(json.dumps(result, indent=2, default=lambda value: {"p50": value.p50, "p99": value.p99}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
