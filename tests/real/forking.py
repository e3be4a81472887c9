"""`wiremesh worker` with an engine that lives in a process of its own, for tests. It says what `sim` says.

The first word: `well`, or `fails` for one that cannot start after it has begun its process. The others are flags.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from launch import cli
from nodes import loading
from nodes.contract.engine import BlockEvent, Card, Ending, EngineLoad, Job
from nodes.engine_options import EngineOptions
from nodes.engines import outside
from nodes.engines.guard import Guard, descendants
from nodes.engines.outside import OutsideEngine, Piece, budget_of, sequence_of
from nodes.engines.sim import continuation
from nodes.text.tokenizer import Tokenizer

STEP_S = 0.005
# A child that asks its own child: both outlive whoever started them, and answer a line with a line.
ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)\n"
CHILD = f"import subprocess, sys; subprocess.Popen(['sleep', '1000']); exec({ECHO!r}); import time; time.sleep(1000)"


class Forking:
    """Keeps `nodes.engines.outside.Source`."""

    def __init__(self, tokenizer: Tokenizer, fails: bool) -> None:
        self._card = Card(
            "forking", "x", tokenizer.vocabulary, 2048, 64, 16, 0, tokenizer.eos_tokens, tells_blocks=False
        )
        self._span = loading.spoken(tokenizer)
        self._fails = fails
        self._guard = Guard()

    def start(self) -> Card:
        with self._guard.marking():
            self._child = subprocess.Popen(
                [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self._asked()
        print(f"children {' '.join(map(str, [self._child.pid, *descendants(self._child.pid)]))}", flush=True)
        if self._fails:
            raise RuntimeError("no room for\nthe weights")
        return self._card

    def _asked(self) -> bool:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(b"well?\n")
        self._child.stdin.flush()
        return self._child.stdout.readline() == b"well?\n"

    def refusal(self, job: Job) -> str | None:
        return None

    async def stream(self, job: Job) -> AsyncIterator[Piece]:
        sequence = sequence_of(job)
        for token in continuation(sequence, budget_of(job), self._span):
            await asyncio.sleep(STEP_S)
            if self._child.poll() is not None:
                await asyncio.Event().wait()  # as an engine whose process is gone
            yield Piece([token])
        yield Piece(ending=Ending.LENGTH)

    def load(self) -> EngineLoad:
        return EngineLoad()

    def events(self) -> list[BlockEvent]:
        return []

    def families(self) -> list[Any]:
        return []

    async def well(self) -> bool:
        return self._child.poll() is None and await asyncio.to_thread(self._asked)

    async def stop(self) -> None:
        self._guard.release()
        self._child.wait()


def main() -> int:
    how, *words = sys.argv[1:]
    outside.PROBE_S = 0.05
    outside.PROBE_LONG_S, outside.HANGS_S = 0.5, 2.0

    def load(folder: Path, options: EngineOptions, tokenizer: Tokenizer) -> loading.Made:
        engine = OutsideEngine(Forking(tokenizer, how == "fails"))
        return engine, engine.start(), None

    loading._LOADERS["sim"] = load
    return cli.main(["worker", "--engine", "sim", *words])


if __name__ == "__main__":
    sys.exit(main())
