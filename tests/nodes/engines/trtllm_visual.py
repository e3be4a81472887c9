"""The part of VisualGen that the adapter uses, with names as they are assumed to be: it makes pictures of noise."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ARGUMENTS = {"n_workers", "parallel", "quant_config"}


@dataclass(kw_only=True)
class VisualGenParams:
    """What a picture or clip is to be."""

    height: int = 720
    width: int = 1280
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    seed: int = 42
    num_frames: int = 81
    negative_prompt: str | None = None


@dataclass
class MediaOutput:
    """One of the two: bytes, the colours last."""

    image: Any = None
    video: Any = None


class VisualGen:
    """The engine."""

    def __init__(self, model: str | Path, **kwargs: Any) -> None:
        if strange := sorted(kwargs.keys() - ARGUMENTS):
            raise ValueError(f"1 validation error for VisualGenArgs\n{strange[0]}\n  Extra inputs are not permitted")
        self.makes = "video" if "video" in Path(model).name else "image"
        self.asked: list[tuple[str, VisualGenParams]] = []
        self.shutdowns = 0

    def generate(self, inputs: str, params: VisualGenParams | None = None) -> MediaOutput:
        given = params or VisualGenParams()
        self.asked.append((inputs, given))
        if given.num_inference_steps > 900:
            raise RuntimeError("CUDA out of memory")
        noise = np.random.default_rng([given.seed, len(inputs), given.num_inference_steps])
        frame = (given.height, given.width, 3)
        if self.makes == "video":
            return MediaOutput(video=noise.integers(0, 256, (given.num_frames, *frame), np.uint8))
        return MediaOutput(image=noise.integers(0, 256, (1, *frame), np.uint8))

    def shutdown(self) -> None:
        self.shutdowns += 1


def modules(**changed: Any) -> dict[str, ModuleType]:
    """The package; `changed` are other classes than these, or none."""
    found = {name: ModuleType(name) for name in ("tensorrt_llm", "tensorrt_llm.llmapi")}
    everything = {"VisualGen": VisualGen, "VisualGenParams": VisualGenParams, **changed}
    vars(found["tensorrt_llm.llmapi"]).update({name: one for name, one in everything.items() if one is not None})
    return found


@contextmanager
def installed(**changed: Any) -> Iterator[None]:
    """It can be imported."""
    made = modules(**changed)
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
