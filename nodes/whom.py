"""Pure. Which node somebody means: by its id, by the beginning of its id, or by its name.

`wiremesh up` names its nodes worker-1@HOST-PROCESS and shows them as worker-1: what stands before the @ is enough.
"""

import re
from collections.abc import Sequence

from msgspec import Struct

PREFIX_CHARS_MIN = 3  # fewer would be a slip of the finger more often than a choice
_ID = re.compile(rf"[0-9a-f]{{{PREFIX_CHARS_MIN},16}}")


class Seen(Struct, frozen=True):
    """A node that was seen on the mesh."""

    node: int
    name: str
    endpoints: tuple[str, ...] = ()
    live: bool = False

    @property
    def id(self) -> str:
        """As people see it."""
        return f"{self.node:016x}"


class Nobody(ValueError):
    """Nobody who was seen is meant."""


class Several(ValueError):
    """More than one could be meant."""


def choose(wanted: str, seen: Sequence[Seen]) -> Seen:
    """The node that is meant. Raises Nobody or Several, with a sentence."""
    exact = [node for node in seen if wanted in (node.id, node.name)]
    shown = [node for node in seen if wanted and node.name.partition("@")[0] == wanted]
    begins = [node for node in seen if _ID.fullmatch(wanted) and node.id.startswith(wanted)]
    found = exact or shown or begins
    if not found:
        raise Nobody(f"no node {wanted!r} was seen; {_listed(seen)}")
    if len(found) > 1:
        raise Several(f"{wanted!r} could be any of {len(found)} nodes: say which by its id; {_listed(found)}")
    return found[0]


def is_certain(wanted: str, seen: Sequence[Seen]) -> bool:
    """Whether seeing more nodes could not change who is meant."""
    return any(wanted == node.id for node in seen) or [node.name for node in seen].count(wanted) == 1


def _listed(seen: Sequence[Seen]) -> str:
    if not seen:
        return "nobody is there: check --join and --mesh"
    return "there are " + ", ".join(f"{node.id} ({node.name})" for node in sorted(seen, key=lambda node: node.name))
