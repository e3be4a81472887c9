"""SGLang for the conformance suite, as it runs on any CPU: in float32, with a stand-in for the package of its kernels.

PYTHONPATH must name `tests/nodes/engines/sglang_on_cpu`, as `launch/test.sh --engine sglang` sees to: that has to be so
when Python starts.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nodes.contract.engine import Card, Job
from nodes.engine_options import EngineOptions
from nodes.engines.outside import OutsideEngine
from nodes.engines.sglang.source import SglangSource
from nodes.engines.sglang.starting import library
from nodes.folder import ModelRefused, contents_of
from nodes.text.tokenizer import ModelFiles, Tokenizer

WORDS = (
    "--device cpu --attention-backend torch_native --sampling-backend pytorch --dtype float32 "
    "--disable-overlap-schedule --cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled "
    "--grammar-backend none --sleep-on-idle --enable-memory-saver --enable-weights-cpu-backup"
)
PLACE = Path(__file__).resolve().parents[1] / "nodes" / "engines" / "sglang_on_cpu"
WARM = [*range(3, 35)]
WITHIN_S = 60.0
SETTINGS = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "SGLANG_EXTERNAL_MODEL_PACKAGE": "few_models",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # it would compile C++ for a minute when the first penalty comes
}


METRICS = tempfile.TemporaryDirectory(prefix="wiremesh-sglang-metrics-")  # goes with this process


def forget_metrics() -> None:
    """Of an engine before this one: a worker has one, and a test process several.

    A worker gets its folder from SGLang, which takes it away when another engine begins; and has not loaded
    prometheus_client before, which looks for that folder when it is loaded.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = METRICS.name
    from prometheus_client import REGISTRY, values

    values.ValueClass = values.get_value_class()
    for collector, names in list(REGISTRY._collector_to_names.items()):
        if any(name.startswith("sglang:") for name in names):
            REGISTRY.unregister(collector)


class Quiet(SglangSource):
    """Our tests take warnings for errors, and packages that SGLang imports have some."""

    def start(self) -> Card:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            forget_metrics()
            # A thread for ever, for one of its metrics.
            library("srt.observability.cpu_monitor").start_cpu_monitor_thread = lambda component: None
            card = super().start()
        asyncio.run(self._warmed(card))
        return card

    async def _warmed(self, card: Card) -> None:
        """What it opens with its first request would look like what a test has left open."""
        self.begin()
        warm = Job("warm", WARM, max_tokens=2, embeds=not card.generates, ignore_eos=True)
        if self._options.role == "worker":
            stream: Any = self.stream(warm)
            async with asyncio.timeout(WITHIN_S):
                assert [piece async for piece in stream]
                while card.tells_blocks and not any(event.kind == "stored" for event in self.events()):
                    await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def sglang(folder: Path, slots: int, tokens: int, caching: bool, *more: str, role: str = "worker") -> OutsideEngine:
    """One that was not started."""
    os.environ.update(SETTINGS)
    native = (*WORDS.split(), "--max-total-tokens", str(tokens), *more)
    options = EngineOptions(str(folder), engine="sglang", slots=slots, caching=caching, native=native, role=role)
    try:
        eos = tuple(Tokenizer(ModelFiles(**contents_of(folder))).eos_tokens)
    except ModelRefused:
        eos = ()
    return OutsideEngine(Quiet(folder, options, eos))


OFFLINE = """
import json, sys
import sglang

if __name__ == "__main__":
    given = json.load(sys.stdin)
    engine = sglang.Engine(
        model_path=given["model"], device="cpu", attention_backend="torch_native", sampling_backend="pytorch",
        dtype="float32", cuda_graph_backend_decode="disabled", cuda_graph_backend_prefill="disabled",
        disable_overlap_schedule=True, grammar_backend="none", skip_tokenizer_init=True, max_total_tokens=4096,
    )
    wanted = {"temperature": 0.0, "max_new_tokens": given["count"], "ignore_eos": True}
    found = engine.generate(input_ids=given["prompts"], sampling_params=wanted)
    print("found", json.dumps([one["output_ids"] for one in found]), flush=True)
    engine.shutdown()
"""
OFFLINE_S = 300.0


def offline(folder: Path, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """By its own `Engine.generate`, all at once, in a process that knows nothing of us."""
    told = {"model": str(folder), "prompts": [[*prompt] for prompt in prompts], "count": count}
    with tempfile.TemporaryDirectory(prefix="wiremesh-sglang-offline-") as place:
        script = Path(place) / "offline.py"  # a file: its processes import it again
        script.write_text(OFFLINE)
        alone = {**os.environ, **SETTINGS}
        alone.pop("PROMETHEUS_MULTIPROC_DIR", None)
        said = subprocess.run(
            [sys.executable, str(script)],
            input=json.dumps(told),
            env=alone,
            capture_output=True,
            text=True,
            timeout=OFFLINE_S,
        )
    assert "found " in said.stdout, said.stderr
    tokens: list[list[int]] = json.loads(said.stdout.rpartition("found ")[2].splitlines()[0])
    return tokens


def kill_scheduler(engine: Any) -> None:
    """Its process, from outside."""
    for process in engine._source._schedulers():
        os.kill(process, signal.SIGKILL)
