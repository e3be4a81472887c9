"""Shell. What the numpy engine pays for handing its cache over, and that decoding does not pay for it.

    python -m bench.handover [--tokens 2048] [--rounds 7] [--json]

Gather is from the cache into blocks that travel, scatter is back. "in order" are blocks that are neighbours, as a
sequence mostly has them; "mixed" are blocks from all over. Best of so many rounds.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from random import Random

import numpy as np

from nodes.contract.engine import Job, Sampling
from nodes.engines.numpy.engine import NumpyEngine, Settings
from nodes.engines.numpy.exchange import Exchange
from nodes.engines.scheduler import Running
from nodes.folder import folder_of

SHAPES = {"demo": (4, 2, 32), "1B": (16, 8, 64)}  # layers, heads of keys, numbers per head
BLOCK_TOKENS = 16
CACHE_TOKENS = 16384  # a power of two, as in most caches: the worst case for what is read across lines
DECODES = 300


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.handover", description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048, help="of the sequence that is handed over")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    for figure in figures(options.tokens, options.rounds):
        said = "  ".join(f"{name} {value}" for name, value in figure.items())
        print(json.dumps(figure) if options.json else said, flush=True)


def figures(tokens: int, rounds: int) -> Iterator[dict[str, object]]:
    for name, shape in SHAPES.items():
        yield from copies(name, *shape, tokens, rounds)
    for streams in (1, 8):
        yield {"decode streams": streams, "tokens/s": round(decodes(streams))}


def copies(name: str, layers: int, heads: int, width: int, tokens: int, rounds: int) -> Iterator[dict[str, object]]:
    count = min(tokens, CACHE_TOKENS) // BLOCK_TOKENS
    keys = np.ones((layers, heads, width, CACHE_TOKENS), np.float32)
    exchange = Exchange(keys, np.ones((layers, heads, CACHE_TOKENS, width), np.float32), BLOCK_TOKENS)
    memory = memoryview(bytearray(count * exchange.layout.block_bytes))
    mixed = Random(0).sample(range(CACHE_TOKENS // BLOCK_TOKENS), count)
    for order, blocks in (("in order", list(range(count))), ("mixed", mixed)):
        running = Running(Job(0, [0]), 0, (0, 0), [0], 1, frozenset(), 0, blocks=blocks, room=count * BLOCK_TOKENS)
        for move in (exchange.gather, exchange.scatter):
            spent_s = best_s(partial(move, running, 0, running.room, memory), rounds)
            yield {
                "cache": name,
                "blocks": order,
                "move": move.__name__,
                "MB": round(len(memory) / 1e6, 1),
                "ms": round(spent_s * 1e3, 2),
                "GB/s": round(len(memory) / spent_s / 1e9, 2),
            }


def best_s(work: Callable[[], None], rounds: int) -> float:
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)


def decodes(streams: int) -> float:
    """Tokens per second of the demo model, in the fastest tenth of the steps: the others wait for other programs."""
    engine = NumpyEngine(Settings(str(folder_of("demo"))))
    engine.start()
    for key in range(streams):
        sampling = Sampling(temperature=0.0)
        engine.submit(Job(key, list(range(10, 74)), max_tokens=2 * DECODES, ignore_eos=True, sampling=sampling))
    spent = []
    for _ in range(DECODES):
        began = time.perf_counter()
        engine.step()
        spent.append(time.perf_counter() - began)
    return streams / sorted(spent)[DECODES // 10]


if __name__ == "__main__":
    main()
