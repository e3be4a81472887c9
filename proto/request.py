"""Pure. The life of a leg: the two tables, and nothing else that decides what may follow what.

A leg is one placement of a request on one holder, named by (request, attempt). The owner and the holder each keep a
state of it and advance it by every message that they send or receive. `OWNER` and `HOLDER` are keyed by (state,
verb); a pair that is not there is illegal: a `RemoteError` if the peer sent it, an assertion if we did. Events that
are no messages (a lost link, a timer) close a leg without a row here: the session took it along.

The rule about answers that no table of single states can hold: every Cancel gets exactly one Cancelled, so a leg that
was stopped and then killed is owed two, and `CANCELLED` closes it when it answers the last. README.md, "Races".
"""

from collections.abc import Iterable
from enum import StrEnum

from proto.basics import Message
from proto.errors import Reason, RemoteError
from proto.messages import (
    Accept,
    Cancel,
    Cancelled,
    Chunk,
    Credit,
    End,
    Error,
    Fed,
    Handed,
    Migrate,
    Reject,
    Strength,
    Submit,
)


class Verb(StrEnum):
    """A message as the tables see it: a Cancel is two verbs."""

    SUBMIT = "submit"
    ACCEPT = "accept"
    REJECT = "reject"
    CHUNK = "chunk"
    CREDIT = "credit"
    END = "end"
    ERROR = "error"
    MIGRATE = "migrate"
    HANDED = "handed"
    FED = "fed"
    STOP = "stop"
    KILL = "kill"
    CANCELLED = "cancelled"


class Leg(StrEnum):
    """States of a leg, on either side."""

    NEW = "new"  # not heard of
    SUBMITTED = "submitted"  # owner: sent, not answered; holder: received, not answered
    RUNNING = "running"  # accepted; queued or producing
    STOPPING = "stopping"  # asked to finish; still delivers
    KILLING = "killing"  # asked to drop; what arrives is discarded
    SETTLING = "settling"  # it has ended; a Cancelled is still owed
    CLOSED = "closed"  # over


OWNER: dict[tuple[Leg, Verb], Leg] = {
    (Leg.NEW, Verb.SUBMIT): Leg.SUBMITTED,
    (Leg.SUBMITTED, Verb.ACCEPT): Leg.RUNNING,
    (Leg.SUBMITTED, Verb.REJECT): Leg.CLOSED,
    (Leg.SUBMITTED, Verb.CREDIT): Leg.SUBMITTED,  # the client drains what an earlier leg delivered
    (Leg.SUBMITTED, Verb.FED): Leg.SUBMITTED,
    (Leg.SUBMITTED, Verb.STOP): Leg.STOPPING,
    (Leg.SUBMITTED, Verb.KILL): Leg.KILLING,
    (Leg.RUNNING, Verb.HANDED): Leg.RUNNING,
    (Leg.RUNNING, Verb.FED): Leg.RUNNING,
    (Leg.RUNNING, Verb.CHUNK): Leg.RUNNING,
    (Leg.RUNNING, Verb.CREDIT): Leg.RUNNING,
    (Leg.RUNNING, Verb.END): Leg.CLOSED,
    (Leg.RUNNING, Verb.ERROR): Leg.CLOSED,
    (Leg.RUNNING, Verb.MIGRATE): Leg.CLOSED,
    (Leg.RUNNING, Verb.STOP): Leg.STOPPING,
    (Leg.RUNNING, Verb.KILL): Leg.KILLING,
    (Leg.STOPPING, Verb.ACCEPT): Leg.STOPPING,  # crossed our stop
    (Leg.STOPPING, Verb.REJECT): Leg.SETTLING,
    (Leg.STOPPING, Verb.HANDED): Leg.STOPPING,  # under way when we stopped it
    (Leg.STOPPING, Verb.FED): Leg.STOPPING,
    (Leg.STOPPING, Verb.CHUNK): Leg.STOPPING,  # still delivered: that is what a stop means
    (Leg.STOPPING, Verb.CREDIT): Leg.STOPPING,
    (Leg.STOPPING, Verb.END): Leg.SETTLING,
    (Leg.STOPPING, Verb.ERROR): Leg.SETTLING,
    (Leg.STOPPING, Verb.MIGRATE): Leg.SETTLING,
    (Leg.STOPPING, Verb.KILL): Leg.KILLING,
    (Leg.KILLING, Verb.ACCEPT): Leg.KILLING,
    (Leg.KILLING, Verb.HANDED): Leg.KILLING,
    (Leg.KILLING, Verb.CHUNK): Leg.KILLING,  # under way when we killed it; discarded
    (Leg.KILLING, Verb.REJECT): Leg.SETTLING,
    (Leg.KILLING, Verb.END): Leg.SETTLING,
    (Leg.KILLING, Verb.ERROR): Leg.SETTLING,
    (Leg.KILLING, Verb.MIGRATE): Leg.SETTLING,
    (Leg.KILLING, Verb.CANCELLED): Leg.CLOSED,
    (Leg.SETTLING, Verb.CANCELLED): Leg.CLOSED,
}

HOLDER: dict[tuple[Leg, Verb], Leg] = {
    (Leg.NEW, Verb.SUBMIT): Leg.SUBMITTED,
    (Leg.NEW, Verb.STOP): Leg.SETTLING,  # a cancel before its request: answered at once, then a tombstone
    (Leg.NEW, Verb.KILL): Leg.SETTLING,
    (Leg.NEW, Verb.CREDIT): Leg.NEW,  # crossed our end
    (Leg.SUBMITTED, Verb.ACCEPT): Leg.RUNNING,
    (Leg.SUBMITTED, Verb.REJECT): Leg.CLOSED,
    (Leg.RUNNING, Verb.HANDED): Leg.RUNNING,
    (Leg.RUNNING, Verb.FED): Leg.RUNNING,
    (Leg.RUNNING, Verb.CHUNK): Leg.RUNNING,
    (Leg.RUNNING, Verb.CREDIT): Leg.RUNNING,
    (Leg.RUNNING, Verb.END): Leg.CLOSED,
    (Leg.RUNNING, Verb.ERROR): Leg.CLOSED,
    (Leg.RUNNING, Verb.MIGRATE): Leg.CLOSED,
    (Leg.RUNNING, Verb.STOP): Leg.STOPPING,
    (Leg.RUNNING, Verb.KILL): Leg.KILLING,
    (Leg.STOPPING, Verb.HANDED): Leg.STOPPING,
    (Leg.STOPPING, Verb.FED): Leg.STOPPING,
    (Leg.STOPPING, Verb.CHUNK): Leg.STOPPING,
    (Leg.STOPPING, Verb.CREDIT): Leg.STOPPING,
    (Leg.STOPPING, Verb.END): Leg.SETTLING,
    (Leg.STOPPING, Verb.ERROR): Leg.SETTLING,
    (Leg.STOPPING, Verb.MIGRATE): Leg.SETTLING,
    (Leg.STOPPING, Verb.STOP): Leg.STOPPING,  # asked twice: answered twice
    (Leg.STOPPING, Verb.KILL): Leg.KILLING,
    (Leg.KILLING, Verb.CREDIT): Leg.KILLING,
    (Leg.KILLING, Verb.STOP): Leg.KILLING,
    (Leg.KILLING, Verb.KILL): Leg.KILLING,
    (Leg.KILLING, Verb.CANCELLED): Leg.CLOSED,  # sent when the room is free, not before
    (Leg.SETTLING, Verb.CANCELLED): Leg.CLOSED,
    (Leg.CLOSED, Verb.CREDIT): Leg.CLOSED,
    (Leg.CLOSED, Verb.FED): Leg.CLOSED,
    (Leg.CLOSED, Verb.STOP): Leg.SETTLING,  # the cancel crossed the end: answered all the same
    (Leg.CLOSED, Verb.KILL): Leg.SETTLING,
    (Leg.CLOSED, Verb.SUBMIT): Leg.SUBMITTED,  # a tombstone is there: the only answer is Reject(stale)
}

_VERBS: dict[type[Message], Verb] = {
    Submit: Verb.SUBMIT,
    Accept: Verb.ACCEPT,
    Reject: Verb.REJECT,
    Chunk: Verb.CHUNK,
    Credit: Verb.CREDIT,
    End: Verb.END,
    Error: Verb.ERROR,
    Migrate: Verb.MIGRATE,
    Cancelled: Verb.CANCELLED,
    Handed: Verb.HANDED,
    Fed: Verb.FED,
}


def verb(message: Message) -> Verb:
    """The verb of a request message."""
    if isinstance(message, Cancel):
        return Verb.STOP if message.strength == Strength.STOP else Verb.KILL
    return _VERBS[type(message)]


def receive(table: dict[tuple[Leg, Verb], Leg], state: Leg, received: Verb) -> Leg:
    """The state after a peer's message; an illegal one is the peer's fault."""
    after = table.get((state, received))
    if after is None:
        raise RemoteError(Reason.ILLEGAL, f"{received.value} while {state.value}")
    return after


def send(table: dict[tuple[Leg, Verb], Leg], state: Leg, sent: Verb) -> Leg:
    """The state after a message of our own; an illegal one is our bug."""
    assert (state, sent) in table, f"we may not {sent.value} while {state.value}"
    return table[state, sent]


_MASK = 2**64 - 1


def mix(request: int, attempt: int) -> int:
    """A 64-bit hash of a leg's name (splitmix64): equal on every machine, unlike `hash`."""
    value = ((request << 16) + attempt + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def digest(legs: Iterable[tuple[int, int]]) -> int:
    """The XOR of `mix` over legs; a table that adds and removes legs updates it in one step each."""
    value = 0
    for request, attempt in legs:
        value ^= mix(request, attempt)
    return value
