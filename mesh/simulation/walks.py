"""Pure. Invariants of walks: one leg at most makes units, who awaits is fed once, handles arrive, and from whom.

Legs are known by what was said about them (`legs.Seen`). Where a holder or an owner may forget a leg (two kinds of
faults do that), nobody can tell from outside when the other found out: there the judge of rule 27 is silent.
"""

from typing import TYPE_CHECKING

from mesh.simulation.legs import Seen
from mesh.simulation.streams import Stream
from mesh.simulation.violation import require
from proto import codec
from proto.basics import Message
from proto.messages import Accept, Cancel, Chunk, End, Error, Fed, Handed, Migrate, Part, Reject, Strength, Submit

if TYPE_CHECKING:
    from mesh.simulation.network import Link
    from mesh.simulation.world import World


def submitted(world: "World", stream: Stream, link: "Link", message: Submit) -> None:
    """A leg is submitted: it awaits if and only if another one lives, and it gets all that was handed over."""
    name = f"{stream.process.label}/{stream.request} at attempt {message.attempt}"
    living = stream.living()
    if not world.forgetful:
        others = [leg.attempt for leg in living]
        require(message.awaits == bool(living), "27 one maker", f"{name}: awaits={message.awaits}, with {others}")
    known = all(handle in stream.handles for handle in message.handles)
    require(known, "27 handles", f"{name} gets {message.handles}, known are {stream.handles}")
    if message.awaits and not world.forgetful:
        own = [handle for leg in living for handle in stream.handles if handle.startswith(b"%d " % leg.attempt)]
        require(all(handle in message.handles for handle in own), "27 handles", f"{name} does not get {own}")
    if message.awaits:
        fine = not living or living[-1].handed or world.forgetful
        require(fine, "27 stops", f"{name} sets out although {living[-1:]} has not handed over")
    if stream.carried:
        fine = stream.carried in message.handles and message.endpoint == stream.endpoint
        require(fine, "27 handles", f"{name} goes to {message.endpoint} without {stream.carried!r}")
        stream.carried = b""
    stops = (*stream.feeders, stream.endpoint)
    require(message.endpoint in stops, "27 stops", f"{name} goes to {message.endpoint}")
    further = advances(stream, message.endpoint)
    stream.advances += further
    stream.retried += stream.newest.handed and not further  # nobody could take its next stop then
    for leg in stream.legs if not message.awaits else ():
        leg.over = True  # its owner has found out
    assert link.target is not None
    leg = Seen(message.attempt, link.target.label, link.target.place, link)
    leg.submitted_at, leg.start, leg.limit = world.clock.now, message.position, message.limit
    leg.endpoint, leg.awaits, leg.alone = message.endpoint, message.awaits, message.suspect
    stream.legs.append(leg)


def advances(stream: Stream, endpoint: str) -> bool:
    """Whether this stop comes after the one before it: then it is no new beginning."""
    stops = (*stream.feeders, stream.endpoint)
    return bool(stream.legs) and stops.index(endpoint) > stops.index(stream.newest.endpoint)


def fed(world: "World", stream: Stream, link: "Link", message: Fed) -> None:
    """Once, when nobody before it makes units any more, and with all that was made since its Submit."""
    name = f"{stream.process.label}/{stream.request} at attempt {message.attempt}"
    assert link.target is not None
    leg = stream.leg(message.attempt, link.target.label)
    require(leg is not None and not leg.over and leg.awaits, "27 fed", f"{name} is fed and does not await it")
    assert leg is not None
    leg.awaits = False
    earlier = [other.attempt for other in stream.living() if other.attempt < leg.attempt]
    require(not earlier or world.forgetful, "27 fed", f"{name} is fed while {earlier} live")
    wanted = stream.expected[leg.start : stream.position]
    tokens = list(codec.unpack(message.tokens))
    fits = message.position == leg.start and len(tokens) == len(wanted)
    require(fits, "3 positions", f"{name} is fed {len(tokens)} at {message.position}, not {len(wanted)} at {leg.start}")
    require(tokens == wanted, "27 fed", f"{name} is fed {tokens}, not {wanted}")


def heard(stream: Stream, leg: Seen, message: Accept | Part | Reject | End | Error | Migrate | Handed) -> None:
    """The owner hears of a leg."""
    if isinstance(message, Handed):
        leg.handed = True
        stream.handles.append(message.handle)
    elif isinstance(message, End | Error | Migrate | Reject):
        leg.over = True
        if isinstance(message, Migrate) and message.handle and not leg.handed:
            stream.handles.append(message.handle)
            stream.carried = message.handle


def cancelled(stream: Stream | None, link: "Link", message: Cancel) -> None:
    """The owner wants a leg to finish, or wants it no more."""
    assert link.target is not None
    leg = stream.leg(message.attempt, link.target.label) if stream is not None else None
    if leg is not None:
        leg.stopped = True
        leg.over |= message.strength == Strength.KILL


def maker(stream: Stream, link: "Link", message: Message) -> Seen | None:
    """The leg that units come from, if it may make any."""
    if isinstance(message, Migrate):
        return stream.leg(message.attempt, link.source.label)
    assert isinstance(message, Chunk)
    for part in message.parts:
        leg = stream.leg(part.attempt, link.source.label) if part.request == stream.request else None
        if leg is not None and not leg.over and not leg.awaits:
            return leg
    return None
