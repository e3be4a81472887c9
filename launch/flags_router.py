"""Pure. The flags of `wiremesh router`."""

from msgspec import Struct

from mesh.options import OptionRefused
from mesh.placement import POLICIES


class RouterFlags(Struct, frozen=True):
    """What `wiremesh router` can be told, besides how to join."""

    policy: str = "least-loaded"

    def __post_init__(self) -> None:
        if self.policy not in CHOICES:
            raise OptionRefused(f"--policy is {self.policy!r}: it must be one of {', '.join(CHOICES)}")


CHOICES = tuple(name.replace("_", "-") for name in POLICIES if name != "direct")
ROUTER_HELP = {"policy": f"who gets a request that names no policy: {', '.join(CHOICES)} (default: least-loaded)"}
