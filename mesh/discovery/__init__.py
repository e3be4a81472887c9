"""Pure. How nodes come to know of each other, behind one flag: `--join`. See `plan` for its forms, `ladder` for `auto`.

Discovery only suggests: `found` is an address worth a dial, `lost` a hint. Who is alive is for `mesh.peers` to say.
Importing this package loads no network code; `mesh.discovery.ladder` builds what a plan asks for.
"""

from collections.abc import Callable
from typing import Protocol

from mesh.discovery.plan import JoinRefused, Plan, parse_join
from proto.messages import Record

__all__ = ["Discovery", "JoinRefused", "Plan", "parse_join"]


class Discovery(Protocol):
    """One way of being found and of finding. Callbacks come on the event loop's thread."""

    async def start(
        self,
        record: Record,
        found: Callable[[Record], None],
        lost: Callable[[int], None],
        seed: Callable[[str], None],
        remark: Callable[[str, str], None],
    ) -> None:
        """Publish our record and report those of others until `stop`."""

    async def publish(self, record: Record) -> None:
        """Our record has changed."""

    async def stop(self) -> None:
        """Withdraw, as well as it goes within STOP_S."""

    def describe(self) -> str:
        """One line for people: what, where, over which interfaces."""
        ...
