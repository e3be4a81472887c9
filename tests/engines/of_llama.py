"""llama.cpp for the conformance suite: it serves a GGUF file that is made of the demo model, in float32."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from nodes.engines.llama.engine import LlamaEngine, Settings
from nodes.engines.llama.library import library
from nodes.engines.numpy.engine import Settings as Batching
from tests.nodes.engines.ggufs import converted

THREADS = {"n_threads": 1, "n_threads_batch": 1}  # other tests run beside these
FLOAT32 = 0  # llama.cpp's name for it


def llama(folder: Path, batching: Batching) -> LlamaEngine:
    """One that was not started; a folder that holds no model is taken as it is."""
    file = _made(folder) if (folder / "model.safetensors").exists() else folder / "model.gguf"
    return LlamaEngine(Settings(batching, file, ends=(0,), native=THREADS))


def offline(folder: Path, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """By the package's own loop, one after the other."""
    from llama_cpp import Llama

    library()  # whose words go where ours go
    found = []
    model = Llama(str(_made(folder)), n_ctx=1024, n_threads=1, type_k=FLOAT32, type_v=FLOAT32, verbose=False)
    for prompt in prompts:
        model.reset()
        said = model.generate([*prompt], temp=0.0, repeat_penalty=1.0)
        found.append([next(said) for _ in range(count)])
    model.close()
    return found


@cache
def _made(folder: Path) -> Path:
    made = Path(tempfile.mkdtemp(prefix="wiremesh-gguf-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return converted(folder, made)
