"""Shell. The data plane, and its one door. What users need is named here, and loaded when it is used.

`from nodes.transfer import Plane, PlaneSettings, Handle, Layout, Memory, Offer, Ended, Ending, Cause, Way`
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nodes.transfer.causes import Cause, Ending, TransferRefused, Way
    from nodes.transfer.handle import Handle
    from nodes.transfer.layout import Layout
    from nodes.transfer.memory import Memory
    from nodes.transfer.moves import Ended
    from nodes.transfer.owning import Offer
    from nodes.transfer.plane import Plane, PlaneSettings

__all__ = [
    "Cause",
    "Ended",
    "Ending",
    "Handle",
    "Layout",
    "Memory",
    "Offer",
    "Plane",
    "PlaneSettings",
    "TransferRefused",
    "Way",
]

_HOMES = {
    **dict.fromkeys(("Cause", "Ending", "TransferRefused", "Way"), "nodes.transfer.causes"),
    **dict.fromkeys(("Plane", "PlaneSettings"), "nodes.transfer.plane"),
    "Ended": "nodes.transfer.moves",
    "Handle": "nodes.transfer.handle",
    "Layout": "nodes.transfer.layout",
    "Memory": "nodes.transfer.memory",
    "Offer": "nodes.transfer.owning",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: who only reads handles loads neither NumPy nor ZeroMQ."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nodes.transfer' has no attribute {name!r}")
