"""Shell. What seeing and hearing costs: processor time for a picture, and for a second of sound.

    python -m bench.towers [--exact] [--model DIR]

One thread; random weights, of the demo's tiny shape and of a small one (ViT-S at 224 pixels, Whisper tiny's encoder).
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: what a worker has

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from launch.demo_model.senses import SMALL, TINY, make
from nodes.contract.engine import MediaCard
from nodes.engines.numpy.towers import Towers, load

ROUNDS = 7
SECONDS = (1, 10, 30)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what seeing and hearing costs.")
    parser.add_argument("--exact", action="store_true", help="bits that do not depend on the number of threads")
    parser.add_argument("--model", type=Path, help="a model's directory instead")
    given = parser.parse_args()
    if given.model is not None:
        return show(given.model.name, given.model, given.exact)
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in (("tiny", TINY), ("small", SMALL)):
            make(Path(folder) / name, shape)
            show(name, Path(folder) / name, given.exact)
    return 0


def show(name: str, folder: Path, exact: bool) -> int:
    """Print one line per kind."""
    towers = load(folder, exact)
    if towers is None:
        print(f"{folder} neither sees nor hears.", file=sys.stderr)
        return 2
    for kind, card in towers.cards.items():
        for line in lines(towers, kind, card):
            print(f"{name:>8}  {line}", flush=True)
    return 0


def lines(towers: Towers, kind: str, card: MediaCard) -> list[str]:
    random = np.random.Generator(np.random.PCG64(0))
    if kind == "audio":
        found = []
        for seconds in (seconds for seconds in SECONDS if seconds <= card.seconds_max):
            sound = random.standard_normal(seconds * card.rate, np.float32)
            spent = least(lambda sound=sound: towers.encode(kind, sound))  # type: ignore[misc]
            rows = len(towers.encode(kind, sound))
            found.append(f"{seconds:3} s of sound, {rows} rows: {spent * 1e3 / seconds:.1f} ms per second")
        return found
    shape = (card.height, card.width, 3)
    array = random.integers(0, 256, shape if kind == "image" else (card.frames, *shape), np.uint8)
    spent, rows = least(lambda: towers.encode(kind, array)), len(towers.encode(kind, array))
    return [
        f"{kind} of {card.height} x {card.width}, {rows} rows: {spent * 1e3 / max(1, card.frames):.1f} ms per picture"
    ]


def least(work: Callable[[], object]) -> float:
    """Seconds of this thread's processor time, at best: others on the machine only add to it."""
    found = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        work()
        found.append(time.thread_time() - start)
    return min(found)


if __name__ == "__main__":
    sys.exit(main())
