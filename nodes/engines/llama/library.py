"""Shell. llama.cpp's library by its Python package, loaded when it is first used, and what it says while it works."""

from importlib import import_module
from typing import Any

MISSING = (
    "--engine llama needs llama-cpp-python in the Python of this worker: 'wiremesh engines install llama' says how to "
    "get it, and 'wiremesh engines' what is missing"
)
ERROR = 4  # of its levels of what it says
KEPT_CHARS = 300
_kept: list[Any] = []  # what the library calls must outlive it
_said: list[str] = []


def library() -> Any:
    """The module whose functions are the library's own. Raises ImportError."""
    package = import_module("llama_cpp")  # it says so itself if its library cannot be loaded
    functions = import_module("llama_cpp.llama_cpp")
    if not _kept:
        _kept.append(package.llama_log_callback(_hear))
        functions.llama_log_set(_kept[0], None)
        functions.llama_backend_init()
    return functions


def complaint() -> str:
    """The first error that it told since it was last asked: those that follow say that nothing came of it."""
    said = _said[0] if _said else "it does not say why"
    _said.clear()
    return said


def _hear(level: int, text: bytes, _: object) -> None:
    if level == ERROR and not _said:
        _said.append(text.decode(errors="replace").strip()[:KEPT_CHARS])
