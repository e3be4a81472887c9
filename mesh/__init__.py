"""Shell. A mesh of actors. What users need is named here, and loaded when it is used.

`from mesh import Component, Context, Checkpoint, connect, failures`
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh import failures
    from mesh.client import connect
    from mesh.component import Component
    from mesh.context import Context
    from mesh.endpoint import Checkpoint

__all__ = ["Checkpoint", "Component", "Context", "connect", "failures"]

_HOMES = {
    "Checkpoint": "mesh.endpoint",
    "Component": "mesh.component",
    "Context": "mesh.context",
    "connect": "mesh.client",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: a process that only defines a component never loads ZeroMQ."""
    if name == "failures":
        return import_module("mesh.failures")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mesh' has no attribute {name!r}")
