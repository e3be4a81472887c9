"""Shell. The data plane of a node: it listens beside the node's own addresses, under the same key."""

from collections.abc import Sequence

from mesh.actor import Actor
from nodes.transfer import Plane, PlaneSettings, Way
from nodes.transfer.addresses import bulk_address

WAYS = (Way.SHARED, Way.BULK)
_IPC, _TCP = "ipc://", "tcp://"


async def start_plane(actor: Actor, ways: Sequence[Way] = WAYS) -> Plane:
    """Start the plane of a node that has started."""
    plan, node = actor.arrangement, actor.node.settings.node
    listen = tuple(dict.fromkeys(beside(address, node) for address in plan.listen))
    return await Plane(PlaneSettings(node, plan.host, listen, tuple(ways)), plan.key).start()


def beside(address: str, node: int) -> str:
    """Where bulk is listened for, by where messages are: in the same directory, or at the same interface."""
    if address.startswith(_IPC):
        return bulk_address(address.removeprefix(_IPC).rpartition("/")[0], node)
    return f"{address.rpartition(':')[0]}:0"
