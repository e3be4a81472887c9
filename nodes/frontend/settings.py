"""Pure. What a frontend is told at its start."""

from msgspec import Struct

from nodes.frontend import limits
from nodes.media.limits import PART_BYTES_DEFAULT


class Settings(Struct, frozen=True):
    """How requests are read, placed and bounded."""

    policy: str = "round_robin"  # of mesh.placement, where no router is asked
    routed: bool = True  # ask a router first, if there is one
    migrations_max: int = 3  # moves in a row without a new token
    timeout_s: float = limits.TIMEOUT_S_DEFAULT
    grace_s: float = limits.GRACE_S_DEFAULT
    body_bytes_max: int = limits.BODY_BYTES_DEFAULT
    streams_max: int = limits.STREAMS_DEFAULT
    kept_bytes_max: int = limits.KEPT_BYTES_DEFAULT
    rate_per_key: float = 0.0
    concurrency_per_key: int = 0
    cors_origins: tuple[str, ...] = ()
    media_bytes_max: int = PART_BYTES_DEFAULT  # one picture, sound or clip
    media_urls: tuple[str, ...] = ()  # `public`, or hosts, from which they may be fetched
    json_pings: bool = False  # spaces before an answer in one piece, while it is waited for
