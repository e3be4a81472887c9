"""Shell. The simulator: the real cores in virtual time, under faults, with judges. See README.md.

For users: `from mesh.simulation import Simulation`, and `Simulation(component).run("endpoint", requests=[...])` in a
pytest test; it raises `Violation` at the first stream that a fault has changed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.simulation.user import Simulation, Summary
    from mesh.simulation.violation import Violation

__all__ = ["Simulation", "Summary", "Violation"]


def __getattr__(name: str) -> Any:
    """Load what is asked for, and not the SDK for who only runs seeds."""
    if name in ("Simulation", "Summary"):
        from mesh.simulation import user

        return getattr(user, name)
    if name == "Violation":
        from mesh.simulation.violation import Violation

        return Violation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
