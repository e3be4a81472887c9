"""Shell. Pictures and clips with the diffusers library: any of its pipelines that take a text, on a CPU or a GPU.

Noise is drawn on the CPU whatever the device, so that a seed means the same everywhere; float32 on a CPU gives the same
picture on every worker, coarser numbers may give one that differs in single pixels.
"""

import inspect
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nodes.contract.pictures import VIDEO, PainterDead, PictureCard, Scene, Unwanted, Went
from nodes.folder import ModelRefused

NEEDED = ("prompt", "width", "height", "num_inference_steps", "generator", "output_type", "callback_on_step_end")
FRAMES_WORD = "num_frames"
FRAMES = 16  # where a pipeline does not say
GUIDANCE, NEGATIVE = "guidance_scale", "negative_prompt"
STEPS = 50  # where a pipeline does not say
SIDE_PIXELS = 512  # likewise
MISSING = "--diffusion needs pip install 'wiremesh[diffusion]'"


class DiffusersPainter:
    """Keeps the contract of `nodes.contract.pictures.Painter`."""

    def __init__(self, folder: str, model: str, kind: str, device: str, dtype: str) -> None:
        self._folder, self._model, self._kind = folder, model, kind
        self._device, self._dtype = device, dtype
        self._pipeline: Any = None
        self._takes: frozenset[str] = frozenset()

    def start(self) -> PictureCard:
        if not (Path(self._folder) / "model_index.json").is_file():
            raise ModelRefused(
                f"{self._folder} has no model_index.json: --diffusion takes the directory of a diffusers pipeline"
            )
        try:
            torch, library = import_module("torch"), import_module("diffusers")
        except ImportError as error:
            raise ModelRefused(f"{MISSING}: {error}") from None
        for quiet in ("diffusers.utils.logging", "transformers.utils.logging"):
            import_module(quiet).disable_progress_bar()
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = _dtype(torch, self._dtype, device)
        try:
            pipeline = _loaded(library, self._folder, dtype).to(device)
        except Exception as error:  # of the library, or of the model's files
            raise ModelRefused(f"the diffusers library cannot load {self._folder}: {_line(error)}") from None
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline, self._torch = pipeline, torch
        self.card = self._card(pipeline)
        return self.card

    def _card(self, pipeline: Any) -> PictureCard:
        name = type(pipeline).__name__
        parameters = inspect.signature(pipeline.__call__).parameters
        is_clip = self._kind == VIDEO
        lacking = [word for word in (*NEEDED, *[FRAMES_WORD] * is_clip) if word not in parameters]
        if lacking or (FRAMES_WORD in parameters and not is_clip):
            why = f"no {lacking[0]}" if lacking else "but clips: --diffusion video"
            raise ModelRefused(f"{self._folder} is a {name}: it makes no {self._kind}s of a text ({why})")
        self._takes = frozenset(parameters)
        side = _side(pipeline)
        return PictureCard(
            engine=f"diffusers {name}",
            model=self._model,
            kind=self._kind,
            width=_default(parameters, "width", side),
            height=_default(parameters, "height", side),
            steps=_default(parameters, "num_inference_steps", STEPS),
            guidance=float(_default(parameters, GUIDANCE, 0.0)),
            grain=_grain(pipeline),
            frames=_default(parameters, FRAMES_WORD, FRAMES) if is_clip else 0,
            negates=NEGATIVE in parameters,
        )

    def paint(self, scene: Scene, went: Went) -> bytes:
        made = 0

        def stepped(pipeline: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal made
            made += 1
            went(made)
            return tensors

        words: dict[str, Any] = {GUIDANCE: scene.guidance}
        if scene.frames:
            words[FRAMES_WORD] = scene.frames
        if scene.negative_prompt:
            words[NEGATIVE] = scene.negative_prompt
        try:
            found = self._pipeline(
                prompt=scene.prompt,
                width=scene.width,
                height=scene.height,
                num_inference_steps=scene.steps,
                generator=self._torch.Generator("cpu").manual_seed(scene.seed),
                output_type="np",
                callback_on_step_end=stepped,
                **{name: value for name, value in words.items() if name in self._takes},
            )
        except Unwanted:
            raise
        except Exception as error:
            if _is_end(self._torch, error):
                raise PainterDead(f"the GPU is gone: {_line(error)}") from error
            raise
        pixels = np.asarray((found.frames if scene.frames else found.images)[0])
        if pixels.shape[-3:] != (scene.height, scene.width, 3) or pixels.ndim != 3 + bool(scene.frames):
            raise ValueError(f"the pipeline made {pixels.shape}, not {scene.width}x{scene.height}")
        return _bytes_of(pixels)

    def stop(self) -> None:
        self._pipeline = None


def _loaded(library: Any, folder: str, dtype: Any) -> Any:
    """A pipeline of the files that are there: nothing is fetched, no pickle is read, and no code of a model runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch_dtype has another name in newer ones, which older ones do not know
        return library.DiffusionPipeline.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True
        )


def _dtype(torch: Any, name: str, device: str) -> Any:
    if name in ("", "auto"):
        return torch.float32 if device == "cpu" else torch.bfloat16
    return getattr(torch, name)


def _side(pipeline: Any) -> int:
    """Pixels of the pictures that the model was trained with."""
    inner = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    size = getattr(pipeline, "default_sample_size", None) or getattr(getattr(inner, "config", None), "sample_size", 0)
    factor = getattr(pipeline, "vae_scale_factor", 8)
    return size * factor if isinstance(size, int) and size > 0 else SIDE_PIXELS


def _grain(pipeline: Any) -> int:
    """Sizes are multiples of it: of a latent's pixels, and transformers join two of those."""
    factor = int(getattr(pipeline, "vae_scale_factor_spatial", 0) or getattr(pipeline, "vae_scale_factor", 8))
    return factor if getattr(pipeline, "unet", None) is not None else 2 * factor


def _default(parameters: Any, name: str, otherwise: Any) -> Any:
    found = getattr(parameters.get(name), "default", None)
    return found if isinstance(found, int | float) and found > 0 else otherwise


def _is_end(torch: Any, error: Exception) -> bool:
    """A GPU that has failed once computes nothing any more in this process. Being short of memory is no such end."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    kinds = tuple(kind for name in ("AcceleratorError",) if (kind := getattr(torch, name, None)) is not None)
    return isinstance(error, kinds) or "CUDA error" in str(error)


def _bytes_of(pixels: Any) -> bytes:
    """From numbers between 0 and 1 to RGB."""
    found: bytes = (np.nan_to_num(pixels).clip(0.0, 1.0) * 255.0).round().astype(np.uint8).tobytes()
    return found


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
