"""Tiny models for the tests of the numpy engine: the golden ones, and engines around them."""

from pathlib import Path
from typing import Any

import numpy as np

from nodes.contract.engine import Job, Output, Sampling, Step
from nodes.engines.numpy.attention import Span, runs_of
from nodes.engines.numpy.engine import NumpyEngine, Settings, configuration
from nodes.engines.numpy.model import Model, load

GOLDEN = Path(__file__).parent / "golden"
STEPS_MAX = 10_000
NAMES = sorted(path.name for path in GOLDEN.iterdir())


def model_of(name: str, exact: bool = False, slots: int = 256) -> Model:
    config, _ = configuration(GOLDEN / name)
    return load(config, GOLDEN / name, config.context, slots, exact)


def engine_of(name: str, **settings: Any) -> NumpyEngine:
    engine = NumpyEngine(Settings(str(GOLDEN / name), **{"block_tokens": 4, **settings}))
    engine.start()
    return engine


def logits_of(model: Model, tokens: list[int], cuts: list[int], blocks: list[int], block_tokens: int = 4) -> np.ndarray:
    """Of all positions, computed in pieces that end at `cuts`."""
    found, start = [], 0
    for stop in [*cuts, len(tokens)]:
        positions = np.arange(start, stop)
        slots = np.asarray(blocks)[positions // block_tokens] * block_tokens + positions % block_tokens
        span = Span(0, stop - start, start, runs_of(blocks, block_tokens, stop))
        heads = np.arange(stop - start)
        found.append(model.logits(np.asarray(tokens[start:stop]), positions, slots, [span], heads))
        start = stop
    return np.concatenate(found)


def run(engine: Any, found: dict[Any, Output] | None = None) -> dict[Any, Output]:
    """Step until idle; all that each job got, as one output each."""
    found = {} if found is None else found
    for _ in range(STEPS_MAX):
        if engine.idle():
            return found
        collect(engine.step(), found)
        engine.check()
    raise AssertionError(f"not idle after {STEPS_MAX} steps")


def collect(step: Step, found: dict[Any, Output]) -> None:
    for output in step.outputs:
        whole = found.setdefault(output.key, Output(output.key, [], [], cached_tokens=output.cached_tokens))
        assert whole.ending is None, f"{output.key} got something after its end"
        whole.tokens = [*whole.tokens, *output.tokens]
        whole.logprobs = [*whole.logprobs, *output.logprobs]
        whole.ending, whole.text = output.ending, output.text
        assert output.exported >= whole.exported, "what is out stays out"
        whole.exported = output.exported


def greedy(key: object, prompt: list[int], max_tokens: int = 8, **more: Any) -> Job:
    return Job(key, prompt, max_tokens=max_tokens, ignore_eos=True, sampling=Sampling(temperature=0.0), **more)
