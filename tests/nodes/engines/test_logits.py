"""Logits processors: one interface, in place, for every engine that can."""

from collections.abc import Sequence
from typing import Any

import pytest

from nodes.contract.engine import Ending
from nodes.engine_options import EngineOptions
from nodes.engines.logits import processors_of
from nodes.engines.numpy.engine import NumpyEngine, Settings
from nodes.engines.outside import OutsideEngine
from nodes.folder import ModelRefused
from nodes.loading import load
from tests.engines.harness import Harness, job
from tests.engines.of_trtllm import source_of
from tests.engines.reference import DEMO, greedy

PROMPT = list(range(40, 60))
HERE = "tests.nodes.engines.test_logits"


def counting(input_ids: Sequence[int], logits: Any) -> None:
    """Each token is one more than the last."""
    token = (input_ids[-1] + 1) % len(logits)
    logits[:] = -100.0
    logits[token] = 0.0


def broken(input_ids: Sequence[int], logits: Any) -> None:
    if len(input_ids) > len(PROMPT) + 2:
        raise ValueError("no more")


NOTHING = 5


def numpy_engine(*names: str) -> Harness:
    engine = NumpyEngine(Settings(str(DEMO), slots=2, cache_bytes=1 << 20))
    engine.processors = processors_of(names)
    return Harness(engine)


def trtllm_engine(*names: str) -> Harness:
    return Harness(OutsideEngine(source_of(DEMO, slots=2, logits_processor=names)), True)


@pytest.mark.parametrize("make", [numpy_engine, trtllm_engine])
def test_it_decides_and_a_stream_that_moves_goes_on(make: Any) -> None:
    engine = make(f"{HERE}:counting")
    try:
        (found,) = engine.run(job("a", PROMPT, 5))
        assert list(found.tokens) == [60, 61, 62, 63, 64]
        (found,) = engine.run(job("b", PROMPT, 5, generated=[60, 61, 62]))
        assert list(found.tokens) == [63, 64]
    finally:
        engine.stop()


def test_one_that_raises_fails_its_request_alone(caplog: pytest.LogCaptureFixture) -> None:
    engine = numpy_engine(f"{HERE}:broken")
    (found, short) = engine.run(job("a", PROMPT, 9), job("b", PROMPT[:5], 9))
    assert found.ending is Ending.FAILED and len(found.tokens) == 3
    assert list(short.tokens) == greedy(PROMPT[:5], 9)
    assert "no more" in caplog.text
    engine.stop()


@pytest.mark.parametrize(
    ("name", "why"), [("nowhere", "MODULE:NAME"), ("no.such:thing", "cannot be loaded"), (f"{HERE}:NOTHING", "called")]
)
def test_what_is_none_is_refused_in_a_sentence(name: str, why: str) -> None:
    with pytest.raises(ModelRefused, match=why):
        load(EngineOptions("demo", logits_processor=(name,)))
