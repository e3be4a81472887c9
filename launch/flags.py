"""Pure. The flags that only one command has. What all of them share is in `mesh.options`."""

from math import inf

from msgspec import Struct

from mesh.options import OptionRefused

POLICIES = ("round_robin", "random", "power_of_two", "least_loaded")  # of mesh.placement; `direct` has its own flag


class KeygenFlags(Struct, frozen=True):
    """What `wiremesh keygen` can be told."""

    path: str = ""
    force: bool = False


KEYGEN_HELP = {
    "path": "where to put the key (default: ~/.config/wiremesh/MESH.key)",
    "force": "replace an existing key: every node then needs the new one",
}


class CallFlags(Struct, frozen=True):
    """What `wiremesh call` can be told."""

    policy: str = "round_robin"
    timeout_s: float = 0.0
    direct: str = ""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise OptionRefused(f"--policy is {self.policy!r}: it must be one of {', '.join(POLICIES)}")
        _require_seconds("--timeout-s", self.timeout_s)


CALL_HELP = {
    "policy": f"who gets the request: {', '.join(POLICIES)} (default: round_robin)",
    "timeout_s": "give up after so many seconds (default: 0, never)",
    "direct": "ask this node and no other: its id, as 'wiremesh nodes' prints it",
}


class NodesFlags(Struct, frozen=True):
    """What `wiremesh nodes` can be told."""

    json: bool = False
    wait_s: float = 1.0

    def __post_init__(self) -> None:
        _require_seconds("--wait-s", self.wait_s)


NODES_HELP = {
    "json": "print one JSON object for each node",
    "wait_s": "how long to look around (default: 1)",
}


def _require_seconds(flag: str, value: float) -> None:
    if not 0 <= value < inf:
        raise OptionRefused(f"{flag} is {value!r}: it must be seconds, 0 or more")
