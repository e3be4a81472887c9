"""Pure. What a node is told about itself at birth."""

from msgspec import Struct

from proto import limits
from proto.messages import Offer, Record
from proto.version import VERSION, VERSION_MIN


class Settings(Struct, frozen=True):
    """Identity, addresses and bounds of a node."""

    node: int  # random 64-bit, one per process start, never 0
    name: str
    mesh: str
    tag: bytes  # derived from the mesh key; empty without one
    boot: int  # wall clock at start, ns
    host: str  # nodes of equal host can use each other's ipc addresses
    role: int
    addresses: tuple[str, ...]
    offers: tuple[Offer, ...] = ()
    seed: int = 0  # of the node's own random numbers
    slots: int = 1024  # legs that run at once
    queue: int = 1024  # legs that wait for a slot
    engine: str = ""  # the endpoint that an engine serves: while it runs there, only steps are progress
    policy: str = ""  # of a router: how it places what names no policy; empty: this node is none
    version_min: int = VERSION_MIN
    version_max: int = VERSION
    beat_ms: int = limits.BEAT_MS

    def record(self) -> Record:
        """The record that discovery publishes."""
        return Record(
            node=self.node,
            mesh=self.mesh,
            tag=self.tag,
            name=self.name,
            boot=self.boot,
            host=self.host,
            addresses=list(self.addresses),
            endpoints=[offer.endpoint for offer in self.offers],
        )
