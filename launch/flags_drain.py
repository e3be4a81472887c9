"""Pure. The flags of `wiremesh drain`."""

from math import inf

from msgspec import Struct

from mesh.options import OptionRefused

WAIT_S = 2.0  # long enough for a node on another host to be found


class DrainFlags(Struct, frozen=True):
    """What `wiremesh drain` can be told, besides how to join."""

    grace_s: float = -1.0
    wait_s: float = WAIT_S

    def __post_init__(self) -> None:
        if self.grace_s != -1.0 and not 0 <= self.grace_s <= 86_400:
            raise OptionRefused(f"--grace-s is {self.grace_s!r}: it must be between 0 and 86400 seconds")
        if not 0 <= self.wait_s < inf:
            raise OptionRefused(f"--wait-s is {self.wait_s!r}: it must be seconds, 0 or more")


DRAIN_HELP = {
    "grace_s": "how long what runs there may take to finish before it moves (default: the node's own --drain-s)",
    "wait_s": f"how long to look for the node (default: {WAIT_S:.0f})",
}
