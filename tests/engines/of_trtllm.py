"""TensorRT-LLM for the conformance suite: a fake of its package, which computes with our numpy engine."""

from pathlib import Path
from typing import Any

from nodes.contract.engine import Card
from nodes.engine_options import EngineOptions
from nodes.engines.outside import OutsideEngine
from nodes.engines.trtllm.source import TrtllmSource
from nodes.folder import contents_of
from nodes.text.tokenizer import ModelFiles, Tokenizer
from tests.engines.reference import DEMO
from tests.nodes.engines.trtllm_fake import installed


class OnFake(TrtllmSource):
    """The adapter, while the fake can be imported."""

    def start(self) -> Card:
        with installed():
            return super().start()

    def _begin(self, *arguments: Any) -> Any:
        with installed():
            return super()._begin(*arguments)


def source_of(folder: Path, native: tuple[str, ...] = (), **more: Any) -> TrtllmSource:
    """One that was not started. A folder without a tokenizer gets the demo model's."""
    options = EngineOptions(str(folder), engine="trtllm", native=native, **more)
    home = folder if (folder / "tokenizer.json").exists() else DEMO
    return OnFake(folder, options, Tokenizer(ModelFiles(**contents_of(home))))


def trtllm(folder: Path, slots: int, positions: int, caching: bool) -> OutsideEngine:
    """An engine for a case of the suite."""
    native = ("--kv-cache-config", f'{{"max_tokens": {positions}, "tokens_per_block": 16}}', "--dtype", "float32")
    source = source_of(folder, (*native, "--enable-chunked-prefill"), slots=slots, caching=caching)
    engine = OutsideEngine(source)
    engine.source = source  # type: ignore[attr-defined]
    return engine


def kill_trtllm(engine: Any) -> None:
    """What computes is gone."""
    engine.source._engine.die()
