"""Pure. What of a request lies at its frontend, for others to fetch: nothing, unless it has pictures."""

from collections.abc import Callable

from msgspec import Struct


class Offered(Struct, frozen=True):
    """What of a request lies here for others."""

    handles: tuple[bytes, ...] = ()
    needs: tuple[str, ...] = ()
    reads: bool = False  # whether somebody has to make embeddings
    close: Callable[[], None] = lambda: None
