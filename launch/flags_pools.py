"""Pure. The flags of `wiremesh pools`, and the table that it reads."""

import msgspec

from launch.flags_router import ROUTER_HELP, RouterFlags
from mesh.options import OptionRefused
from nodes.routing.pools import Table

TABLE_BYTES_MAX = 1 << 20  # a full grid of three axes is larger than any table that was thought about


class PoolsFlags(RouterFlags, frozen=True):
    """What `wiremesh pools` can be told, besides how to join: all that a router can, for the choice within a pool."""

    table: str = ""
    first_token_ms: float = 0.0
    next_token_ms: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.table:
            raise OptionRefused("--table is needed: a JSON file that names the pools, and which of them serves what")
        for name in ("first_token_ms", "next_token_ms"):
            if not getattr(self, name) >= 0:
                raise OptionRefused(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be 0 or more")


def table_of(content: bytes, path: str) -> Table:
    """The table in a file. Raises OptionRefused with what is wrong with it."""
    if len(content) > TABLE_BYTES_MAX:
        raise OptionRefused(f"--table {path}: it has {len(content)} bytes, {TABLE_BYTES_MAX} are the most")
    try:
        return msgspec.json.decode(content, type=Table)
    except msgspec.DecodeError as error:
        raise OptionRefused(f"--table {path} is no table of pools, see README.md: {error}") from None


POOLS_HELP = {
    **ROUTER_HELP,
    "table": "a JSON file: the pools, the axes of the grid and its cells (see README.md)",
    "first_token_ms": "the first token that clients are promised who name no target (default: 0, none)",
    "next_token_ms": "the time between tokens likewise (default: 0, none)",
}
