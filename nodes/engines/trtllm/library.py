"""Shell. The tensorrt_llm package: imported where an engine starts, and told how much to say."""

import logging
import os
from importlib import import_module
from typing import Any

MISSING = "--engine trtllm needs TensorRT-LLM, an NVIDIA GPU and Linux: pip install tensorrt-llm"
LEVEL = "TLLM_LOG_LEVEL"
LEVELS = {  # from ours, the noisiest last
    logging.CRITICAL: "internal_error",
    logging.ERROR: "error",
    logging.WARNING: "warning",
    logging.INFO: "info",
    logging.DEBUG: "debug",
}


def part(name: str = "") -> Any:
    """A module of the package. Raises ImportError."""
    return import_module("tensorrt_llm" + (f".{name}" if name else ""))


def level_of(level: int) -> str:
    """Its word for a level of ours; between two the quieter one."""
    return next((word for least, word in sorted(LEVELS.items()) if level <= least), LEVELS[logging.CRITICAL])


def prepare() -> None:
    """Before the package is imported. What somebody has set wins."""
    os.environ.setdefault(LEVEL, level_of(logging.getLogger("wiremesh.engine").getEffectiveLevel()))


def zeros(count: int) -> Any:
    """A tensor of float32."""
    torch: Any = import_module("torch")
    return torch.zeros(count, dtype=torch.float32)


def has(kind: Any, field: str) -> bool:
    """Whether a version's class knows a field."""
    return field in getattr(kind, "__dataclass_fields__", {}) or field in getattr(kind, "model_fields", {})
