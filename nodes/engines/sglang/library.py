"""Shell. SGLang itself, which is there only where it was installed: its modules, loaded when they are asked for."""

from importlib import import_module
from typing import Any


def library(name: str) -> Any:
    """A module of SGLang's."""
    return import_module(f"sglang.{name}")
