"""Pure. The flags of `wiremesh explain`."""

from math import inf

from msgspec import Struct

from mesh.options import OptionRefused

WAIT_S = 2.0  # long enough for routers and frontends on other hosts to be found


class ExplainFlags(Struct, frozen=True):
    """What `wiremesh explain` can be told, besides how to join."""

    json: bool = False
    wait_s: float = WAIT_S

    def __post_init__(self) -> None:
        if not 0 <= self.wait_s < inf:
            raise OptionRefused(f"--wait-s is {self.wait_s!r}: it must be seconds, 0 or more")


EXPLAIN_HELP = {
    "json": "print one JSON object for each request and router",
    "wait_s": f"how long to look for who knows the request (default: {WAIT_S:.0f})",
}
REQUEST_HELP = "the id of an answer (x-request-id, chatcmpl-...), the client's own x-request-id, or OWNER-NUMBER"
