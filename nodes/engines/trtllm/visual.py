"""Shell. Pictures and clips with TensorRT-LLM's VisualGen.

It has not been run, and less is known of it than of the LLM API: that newer releases make pictures and clips, and what
they do where nothing is said (`WIDTH` to `FRAMES` below). The names of its classes, parameters and results are assumed;
they stand in `tests/nodes/engines/trtllm_visual.py`, which is compared with the package wherever that is installed.
A version that has others is refused when the worker starts, in a sentence that names what it lacks.

It is asked for one picture at a time and tells nothing before its end. So there are no steps to be seen, and what
nobody wants any more is made to its end, for nobody.
"""

from pathlib import Path
from typing import Any

from nodes.contract.pictures import VIDEO, PainterDead, PictureCard, Scene, Went
from nodes.engines.guard import Guard, descendants
from nodes.engines.trtllm import flags
from nodes.engines.trtllm.library import MISSING, has, part, prepare
from nodes.folder import ModelRefused

WIDTH, HEIGHT = 832, 480
STEPS = 50
GUIDANCE = 5.0
FRAMES = 81
RATE = 16  # frames in a second
GRAIN = 16  # pixels of a latent, and two of those joined
PLACES = ("", "visual_gen", "llmapi", "llmapi.visual_gen")  # of the package, where its classes may be
ENGINE, PARAMS = "VisualGen", "VisualGenParams"
NEEDED = ("width", "height", "num_inference_steps", "seed")
CHARS_MAX = 500  # of what it says went wrong


class VisualPainter:
    """Keeps the contract of `nodes.contract.pictures.Painter`."""

    def __init__(self, folder: str, model: str, kind: str, words: tuple[str, ...]) -> None:
        self._folder, self._model, self._kind, self._words = folder, model, kind, words
        self._guard = Guard(())
        self._engine: Any = None
        self._params: Any = None

    def start(self) -> PictureCard:
        """Takes minutes for large models."""
        prepare()
        try:
            arguments = flags.given(self._words)
        except ValueError as error:
            raise ModelRefused(str(error)) from None
        engine, self._params = _class(ENGINE), _class(PARAMS)
        wanted = (*NEEDED, "num_frames") if self._kind == VIDEO else NEEDED
        if lacking := [name for name in wanted if not has(self._params, name)]:
            raise ModelRefused(f"this version's {PARAMS} has no {', '.join(lacking)}: it cannot be told what to make")
        before = set(descendants())
        try:
            self._engine = engine(self._folder, **arguments)
        except (Exception, SystemExit) as error:  # It raises anything.
            self._let_go(before)
            raise ModelRefused(f"TensorRT-LLM makes no {self._kind}s of {self._folder}: {_line(error)}") from error
        self._guard = Guard([process for process in descendants() if process not in before])
        self.card = PictureCard(
            engine=f"trtllm {ENGINE}",
            model=self._model,
            kind=self._kind,
            width=WIDTH,
            height=HEIGHT,
            steps=STEPS,
            guidance=GUIDANCE,
            grain=GRAIN,
            frames=FRAMES if self._kind == VIDEO else 0,
            rate=RATE,
            negates=has(self._params, "negative_prompt"),
            tells_steps=False,
        )
        return self.card

    def paint(self, scene: Scene, went: Went) -> bytes:
        chosen = {
            "width": scene.width,
            "height": scene.height,
            "num_inference_steps": scene.steps,
            "seed": scene.seed,
            "guidance_scale": scene.guidance,
            "negative_prompt": scene.negative_prompt or None,
            "num_frames": scene.frames or None,
        }
        known = {name: value for name, value in chosen.items() if value is not None and has(self._params, name)}
        params = self._params(**known)
        try:
            found = self._engine.generate(inputs=scene.prompt, params=params)
        except Exception as error:
            if any(map(has_ended, self._guard.processes)):
                raise PainterDead("TensorRT-LLM has ended; its own log says why") from error
            raise
        went(scene.steps)
        return _pixels(found, scene)

    def stop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.shutdown()
        self._guard.release()

    def _let_go(self, before: set[Any]) -> None:
        Guard([process for process in descendants() if process not in before]).release()


def has_ended(process: int) -> bool:
    """Whether there is nothing left of a process, or nothing but its exit code."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def _class(name: str) -> Any:
    """Wherever a version has it. Raises ModelRefused."""
    try:
        part()
    except ImportError as error:
        raise ModelRefused(f"{MISSING} ({error})") from None
    for place in PLACES:
        try:
            return getattr(part(place), name)
        except (ImportError, AttributeError):
            continue
    raise ModelRefused(f"this version of TensorRT-LLM has no {name}: it makes no pictures, a newer one may")


def _pixels(found: Any, scene: Scene) -> bytes:
    """RGB of a result: a tensor of bytes, with or without a dimension for the batch."""
    frames = scene.frames if scene.kind == VIDEO else 0
    made = getattr(found, "video" if frames else "image", None)
    if made is None:
        raise ValueError(f"TensorRT-LLM gave no {scene.kind}")
    array = made.cpu().numpy() if hasattr(made, "cpu") else made
    dimensions = 4 if frames else 3
    if array.ndim == dimensions + 1 and len(array) == 1:
        array = array[0]
    wanted = (scene.height, scene.width, 3)
    if array.ndim != dimensions or array.shape[-3:] != wanted or array.dtype.name != "uint8":
        raise ValueError(f"TensorRT-LLM made {array.shape} of {array.dtype}, not {wanted} of uint8")
    pixels: bytes = array.tobytes()
    return pixels


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:CHARS_MAX] or type(error).__name__
