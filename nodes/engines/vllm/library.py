"""Shell. vLLM itself, which is there only where it was installed: its modules, loaded when they are asked for."""

from importlib import import_module
from typing import Any

MISSING = (
    "--engine vllm needs vLLM in the Python of this worker: 'wiremesh engines install vllm' says how to get it, and "
    "'wiremesh engines' what is missing"
)


def part(name: str) -> Any:
    """The module `vllm.NAME`; `vllm` itself without a name. Raises ImportError."""
    return import_module(f"vllm.{name}" if name else "vllm")
