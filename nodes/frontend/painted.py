"""Pure. Which models make pictures here, and by which workers. Those know the rest, and refuse what they cannot."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from nodes.frontend import limits
from nodes.names import IMAGINE


class Painted(Struct, frozen=True):
    """A model that was ever offered."""

    created: int  # when it was first seen, seconds since 1970
    workers: tuple[int, ...] = ()  # that are there now


def seen(known: Mapping[str, Painted], offered: Mapping[str, Sequence[int]], now: int) -> dict[str, Painted]:
    """What is known of all models, now that these are offered, by endpoint."""
    found = {name: Painted(model.created) for name, model in known.items()}
    for endpoint, nodes in offered.items():
        name = endpoint.removeprefix(IMAGINE)
        if name in found or len(found) < limits.MODELS_MAX:
            found[name] = Painted(found[name].created if name in found else now, tuple(nodes))
    return found


def live(known: Mapping[str, Painted]) -> list[str]:
    """The models whose requests would be served now."""
    return [name for name, model in known.items() if model.workers]
