"""The engines that the conformance suite knows: one row each. Those whose packages are not installed are left out.

A row is all that an adapter adds. Give it the demo model, in float32, and the reference is there already.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import Struct

from nodes.engines.numpy.config import Unsupported
from nodes.engines.numpy.engine import NumpyEngine
from nodes.engines.numpy.engine import Settings as Batching
from nodes.engines.outside import EngineRefused, OutsideEngine
from nodes.engines.scheduler import Limits
from nodes.engines.sim import Settings, SimEngine
from nodes.faults import Fault
from tests.engines.reference import CONTEXT, DEMO, DIGEST, SAID, greedy, simulated
from tests.engines.smallest import Smallest

Prompts = Sequence[Sequence[int]]
POSITION_BYTES = 2 * 4 * 4 * 2 * 32  # keys and values of the demo model's four layers, two heads of 32, in float32


class Shape(Struct, frozen=True):
    """How large an engine is to be, as far as one can say."""

    slots: int = 4
    block_tokens: int = 16
    blocks: int = 512
    step_tokens: int = 64
    hand_over: bool = False
    caching: bool = True


class Row(Struct, frozen=True):
    """One engine."""

    name: str
    make: Callable[[Path, Shape], Any]  # an engine that was not started
    packages: tuple[str, ...] = ()  # what it needs
    folder: Path = DEMO
    said: Callable[[Sequence[int], int], list[int]] = greedy  # the right answer, past any end of sequence
    offline: Callable[[Path, Prompts, int], list[list[int]]] | None = None  # the same by its own package, without us
    computes: bool = True  # its log-probabilities are those of the reference
    shaped: bool = True  # it is as large as it was told to be
    outside: bool = False  # it runs by itself: an OutsideEngine
    refusals: tuple[type[Exception], ...] = ()  # what `start` raises for a folder without a model, if it needs one
    die: Callable[[Any], None] | None = None  # kill what computes; None: it computes in our process
    penalty: float = 50.0  # of repetition, large enough to be seen; 0: it takes none that is
    stop_s: float = 15.0  # in which it stops, jobs or not
    litters: bool = False  # its package leaves descriptors open in our process: a worker's end closes them


def batching(folder: Path, shape: Shape) -> Batching:
    """For the engines that have our scheduler."""
    return Batching(
        str(folder),
        slots=shape.slots,
        step_tokens=shape.step_tokens,
        block_tokens=shape.block_tokens,
        cache_bytes=shape.blocks * shape.block_tokens * POSITION_BYTES,
        caching=shape.caching,
        hand_over=shape.hand_over,
    )


def sim(folder: Path, shape: Shape) -> SimEngine:
    limits = Limits(
        vocabulary=SAID[1] + 1,
        context=CONTEXT,
        slots=shape.slots,
        step_tokens=shape.step_tokens,
        block_tokens=shape.block_tokens,
        blocks=shape.blocks,
        eos_tokens=(0,),
        hand_over=shape.hand_over,
        caching=shape.caching,
    )
    return SimEngine(Settings(limits, tokens=SAID), DIGEST)


def transformers(folder: Path, shape: Shape) -> Any:
    from nodes.engines.transformers.engine import Settings, TransformersEngine
    from nodes.engines.transformers.library import torch

    torch.set_num_threads(1)
    return TransformersEngine(Settings(batching(folder, shape), "cpu", "float32"))


def generated(folder: Path, prompts: Prompts, count: int) -> list[list[int]]:
    """By the library's own `generate`, one after the other."""
    from nodes.engines.transformers.library import library, torch

    model = library.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
    length = {"max_new_tokens": count, "min_new_tokens": count}
    found = []
    for prompt in prompts:
        whole = model.generate(torch.tensor([[*prompt]]), do_sample=False, eos_token_id=None, pad_token_id=0, **length)
        found.append([int(token) for token in whole[0, len(prompt) :]])
    return found


def llama(folder: Path, shape: Shape) -> Any:
    from tests.engines.of_llama import llama

    return llama(folder, batching(folder, shape))


def offline_llama(folder: Path, prompts: Prompts, count: int) -> list[list[int]]:
    from tests.engines.of_llama import offline

    return offline(folder, prompts, count)


def smallest(folder: Path, shape: Shape) -> OutsideEngine:
    source = Smallest(shape.slots)
    engine = OutsideEngine(source)
    engine.die = lambda: setattr(source, "dead", True)  # type: ignore[attr-defined]
    return engine


def openai(folder: Path, shape: Shape) -> OutsideEngine:
    from tests.engines.of_openai import openai

    return openai(shape.slots)


def kill_openai(engine: Any) -> None:
    from tests.engines.of_openai import kill_openai

    kill_openai(engine)


def vllm(folder: Path, shape: Shape) -> OutsideEngine:
    from tests.engines.of_vllm import vllm

    return vllm(folder, shape.slots, shape.blocks * shape.block_tokens * POSITION_BYTES, shape.caching)


def offline_vllm(folder: Path, prompts: Prompts, count: int) -> list[list[int]]:
    from tests.engines.of_vllm import offline

    return offline(folder, prompts, count)


def kill_vllm(engine: Any) -> None:
    from tests.engines.of_vllm import kill_core

    kill_core(engine)


def sglang(folder: Path, shape: Shape) -> OutsideEngine:
    from tests.engines.of_sglang import sglang

    return sglang(folder, shape.slots, shape.blocks * shape.block_tokens, shape.caching)


def offline_sglang(folder: Path, prompts: Prompts, count: int) -> list[list[int]]:
    from tests.engines.of_sglang import offline

    return offline(folder, prompts, count)


def kill_sglang(engine: Any) -> None:
    from tests.engines.of_sglang import kill_scheduler

    kill_scheduler(engine)


def trtllm(folder: Path, shape: Shape) -> OutsideEngine:
    from tests.engines.of_trtllm import trtllm

    return trtllm(folder, shape.slots, shape.blocks * shape.block_tokens, shape.caching)


def kill_trtllm(engine: Any) -> None:
    from tests.engines.of_trtllm import kill_trtllm

    kill_trtllm(engine)


ROWS = (
    Row(
        "smallest",
        smallest,
        said=simulated,
        computes=False,
        shaped=False,
        outside=True,
        die=lambda engine: engine.die(),
    ),
    Row("openai", openai, said=simulated, computes=False, shaped=False, outside=True, die=kill_openai),
    Row("sim", sim, said=simulated, computes=False, die=lambda engine: engine.fault(Fault.CRASH)),
    Row("numpy", lambda folder, shape: NumpyEngine(batching(folder, shape)), refusals=(Unsupported,)),
    Row("transformers", transformers, ("torch", "transformers"), offline=generated, refusals=(Unsupported,)),
    Row("llama", llama, ("llama_cpp",), offline=offline_llama, refusals=(Unsupported,), litters=True),
    Row(
        "vllm",
        vllm,
        ("vllm",),
        offline=offline_vllm,
        shaped=False,
        outside=True,
        refusals=(EngineRefused,),
        die=kill_vllm,
        stop_s=30.0,
        litters=True,
    ),
    Row(
        "sglang",
        sglang,
        ("sglang", "sgl_kernel"),
        offline=offline_sglang,
        shaped=False,
        outside=True,
        refusals=(EngineRefused,),
        die=kill_sglang,
        penalty=0.0,
        stop_s=30.0,
        litters=True,
    ),
    Row("trtllm", trtllm, shaped=False, outside=True, refusals=(EngineRefused,), die=kill_trtllm),  # a fake of it
)
INSTALLED = [row for row in ROWS if all(find_spec(package) is not None for package in row.packages)]
