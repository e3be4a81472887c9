"""Pure. The legs that this node has on others, as their owner: by name, by peer, and their digest for heartbeats."""

from collections.abc import Mapping

from msgspec import Struct

from proto.basics import LegName
from proto.errors import Reason
from proto.messages import Cancel, Strength, Sync
from proto.request import OWNER, Leg, Verb, digest, mix, receive, send


class Claim(Struct, eq=False, gc=False):
    """One leg of ours."""

    peer: int
    request: int
    attempt: int
    limit: int  # credit
    ordinal: int  # which Submit of the session it was: what a Sync is compared with
    mark: int  # its part of the digest
    state: Leg = Leg.SUBMITTED
    due: int = 0  # answers to Cancels that are owed
    start: int = 0  # of the first unit that it was to make
    running: bool = False  # it has its slot, as far as we were told
    alone: bool = False  # it was sent as a suspect
    endpoint: str = ""
    rank: int = -1  # of its holder, if that has several and one was advised
    feeder: bool = False  # another stop comes after it
    handed: bool = False  # and may begin
    awaits: bool = False  # an earlier leg may still make units: it is owed a Fed

    @property
    def spent(self) -> bool:
        """Whether the request goes on without it: what it may still make can be made where it is needed."""
        return self.feeder and self.handed

    def cancel(self, strength: Strength, reason: Reason, position: int) -> Cancel | None:
        """The Cancel to send, or None if the leg is past it."""
        kind = Verb.STOP if strength == Strength.STOP else Verb.KILL
        if (self.state, kind) not in OWNER:
            return None
        self.state = send(OWNER, self.state, kind)
        self.due += 1
        return Cancel(self.request, self.attempt, position, int(strength), int(reason))

    def receive(self, kind: Verb) -> bool:
        """Advance by a message of the holder; whether the leg is over. Illegal ones raise RemoteError."""
        after = receive(OWNER, self.state, kind)
        if kind is Verb.CANCELLED:
            self.due -= 1
            after = Leg.SETTLING if self.due else after
        self.state = after
        return after is Leg.CLOSED


class _There(Struct, eq=False):
    """What we have on one peer."""

    legs: dict[tuple[int, int], Claim] = {}  # by request and attempt
    digest: int = 0
    submits: int = 0  # in this session


_NOTHING = _There()


class Claims:
    """All legs of ours."""

    def __init__(self) -> None:
        self._there: dict[int, _There] = {}  # by peer

    def __len__(self) -> int:
        return sum(len(there.legs) for there in self._there.values())

    def get(self, peer: int, request: int, attempt: int) -> Claim | None:
        """The leg of this name."""
        return self._there.get(peer, _NOTHING).legs.get((request, attempt))

    def at(self, peer: int) -> Mapping[tuple[int, int], Claim]:
        """All legs there, by request and attempt."""
        return self._there.get(peer, _NOTHING).legs

    def of(self, peer: int) -> list[Claim]:
        """All legs there."""
        return [*self.at(peer).values()]

    def peers(self) -> list[int]:
        """Where there are legs."""
        return [peer for peer, there in self._there.items() if there.legs]

    def count(self, peer: int) -> int:
        """How many legs there."""
        return len(self._there.get(peer, _NOTHING).legs)

    def summary(self, peer: int) -> tuple[int, int]:
        """What a Ping to this peer carries."""
        there = self._there.get(peer, _NOTHING)
        return len(there.legs), there.digest

    def add(self, peer: int, request: int, attempt: int, limit: int) -> Claim:
        """A leg that is being submitted."""
        there = self._there.get(peer)
        if there is None:
            there = self._there[peer] = _There()
        assert (request, attempt) not in there.legs, "attempts are never reused"
        there.submits += 1
        claim = Claim(peer, request, attempt, limit, there.submits, mix(request, attempt))
        there.legs[request, attempt] = claim
        there.digest ^= claim.mark
        return claim

    def remove(self, claim: Claim) -> None:
        """A leg that is over."""
        there = self._there[claim.peer]
        del there.legs[claim.request, claim.attempt]
        there.digest ^= claim.mark

    def compare(self, peer: int, sync: Sync) -> tuple[list[LegName], list[Claim]]:
        """What a holder lists that we do not know, and what it ought to list and does not."""
        theirs = {(leg.request, leg.attempt): leg for leg in sync.legs}
        ours = self.at(peer)
        unknown = [leg for name, leg in theirs.items() if name not in ours]
        missing = [claim for name, claim in ours.items() if claim.ordinal <= sync.submits and name not in theirs]
        vanished = [claim for claim in missing if claim.state is not Leg.SETTLING]  # that one has ended, as we know
        return unknown, vanished

    def drop_peer(self, peer: int) -> list[Claim]:
        """Forget everything about a peer whose sessions are void; the next session counts its Submits anew."""
        return [*self._there.pop(peer, _NOTHING).legs.values()]

    def check(self) -> None:
        """Assert that names and digests are those of the legs."""
        assert not _NOTHING.legs
        for peer, there in self._there.items():
            for name, claim in there.legs.items():
                assert (claim.peer, claim.request, claim.attempt) == (peer, *name)
                assert claim.state not in (Leg.NEW, Leg.CLOSED)
                assert (claim.due > 0) == (claim.state in (Leg.STOPPING, Leg.KILLING, Leg.SETTLING)), claim.state
            assert there.digest == digest(there.legs)
