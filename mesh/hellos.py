"""Pure. What a Hello says, and whether one may come in. Functions of the Hello and our own settings."""

from msgspec import structs

from mesh.settings import Settings
from proto import codec, limits
from proto.errors import LocalError, Reason
from proto.messages import Hello, Record
from proto.version import FEATURES, MAGIC, negotiate


def hello(settings: Settings, session: int, destination: int, draining: bool) -> Hello:
    """Our Hello on a session to `destination`; 0 asks who is there."""
    return Hello(
        magic=MAGIC,
        version_min=settings.version_min,
        version_max=settings.version_max,
        session=session,
        destination=destination,
        role=int(settings.role),
        record=structs.replace(settings.record(), endpoints=[]),  # the offers say it
        offers=list(settings.offers),
        features=list(FEATURES),
        beat_ms=settings.beat_ms,
        draining=draining,
    )


def checked(settings: Settings) -> Settings:
    """The settings, if others will accept our Hello; raises LocalError."""
    size_bytes = len(codec.encode(limits.SEQUENCE_MAX, hello(settings, 2**63, 2**63, False)))
    if len(settings.offers) > limits.OFFERS_MAX or size_bytes > limits.HELLO_BYTES_MAX:
        text = f"{len(settings.offers)} endpoints, {size_bytes} bytes with their names: split them over several nodes"
        raise LocalError(Reason.TOO_LARGE, text)
    return settings


def record_of(theirs: Hello) -> Record:
    """The sender's record, with the endpoints that its offers name."""
    return structs.replace(theirs.record, endpoints=[offer.endpoint for offer in theirs.offers])


def version(theirs: Hello, settings: Settings) -> int | None:
    """The version that both speak, or None."""
    return negotiate((settings.version_min, settings.version_max), (theirs.version_min, theirs.version_max))


def refusal(theirs: Hello, settings: Settings) -> Reason | None:
    """Why this Hello may not come in, or None."""
    if theirs.magic != MAGIC or theirs.record.node == 0:
        return Reason.MALFORMED
    if theirs.record.mesh != settings.mesh or theirs.record.tag != settings.tag:
        return Reason.OTHER_MESH
    if version(theirs, settings) is None:
        return Reason.VERSION
    if theirs.destination not in (0, settings.node):
        return Reason.WRONG_NODE
    return None


def explain(reason: Reason, theirs: Hello, settings: Settings) -> str:
    """The same for people."""
    if reason is Reason.OTHER_MESH:
        same_name = theirs.record.mesh == settings.mesh
        return f"this is mesh {settings.mesh!r}" + (
            " with another key" if same_name else f", not {theirs.record.mesh!r}"
        )
    if reason is Reason.VERSION:
        ours, other = (settings.version_min, settings.version_max), (theirs.version_min, theirs.version_max)
        return f"we speak versions {ours[0]} to {ours[1]}, you {other[0]} to {other[1]}: upgrade the older node"
    if reason is Reason.WRONG_NODE:
        return f"this is node {settings.node:016x}, not {theirs.destination:016x}: the address was reused"
    return reason.label


def choose_address(record: Record, host: str, turn: int) -> str | None:
    """Where to dial: ipc on our own host first; each further turn tries the next address."""
    near = [address for address in record.addresses if address.startswith("ipc://")] if record.host == host else []
    far = [address for address in record.addresses if address.startswith("tcp://")]
    usable = near + far
    return usable[turn % len(usable)] if usable else None
