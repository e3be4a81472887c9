"""Pure. The legs that this node has on others, as their owner: by name, by peer, and their digest for heartbeats."""

from proto.basics import LegName
from proto.errors import Reason
from proto.messages import Cancel, Strength, Sync
from proto.request import OWNER, Leg, Verb, mix, receive, send


class Claim:
    """One leg of ours."""

    __slots__ = (
        "alone", "attempt", "awaits", "due", "endpoint", "feeder", "handed", "limit", "ordinal", "peer", "rank",
        "request", "running", "start", "state",
    )  # fmt: skip

    def __init__(self, peer: int, request: int, attempt: int, limit: int, ordinal: int) -> None:
        self.peer = peer
        self.request = request
        self.attempt = attempt
        self.limit = limit  # credit
        self.ordinal = ordinal  # which Submit of the session it was: what a Sync is compared with
        self.state = Leg.SUBMITTED
        self.due = 0  # answers to Cancels that are owed
        self.start = 0  # of the first unit that it was to make
        self.running = False  # it has its slot, as far as we were told
        self.alone = False  # it was sent as a suspect
        self.endpoint = ""
        self.rank = -1  # of its holder, if that has several and one was advised
        self.feeder = False  # another stop comes after it
        self.handed = False  # and may begin
        self.awaits = False  # an earlier leg may still make units: it is owed a Fed

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


class Claims:
    """All legs of ours."""

    def __init__(self) -> None:
        self._legs: dict[tuple[int, int, int], Claim] = {}
        self._by_peer: dict[int, dict[tuple[int, int], Claim]] = {}
        self._digests: dict[int, int] = {}
        self._submits: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._legs)

    def get(self, peer: int, request: int, attempt: int) -> Claim | None:
        """The leg of this name."""
        return self._legs.get((peer, request, attempt))

    def at(self, peer: int) -> dict[tuple[int, int], Claim]:
        """All legs there, by request and attempt."""
        return self._by_peer.get(peer) or {}

    def of(self, peer: int) -> list[Claim]:
        """All legs there."""
        return list(self._by_peer.get(peer, {}).values())

    def peers(self) -> list[int]:
        """Where there are legs."""
        return [peer for peer, legs in self._by_peer.items() if legs]

    def count(self, peer: int) -> int:
        """How many legs there."""
        return len(self._by_peer.get(peer, ()))

    def summary(self, peer: int) -> tuple[int, int]:
        """What a Ping to this peer carries."""
        return self.count(peer), self._digests.get(peer, 0)

    def add(self, peer: int, request: int, attempt: int, limit: int) -> Claim:
        """A leg that is being submitted."""
        ordinal = self._submits[peer] = self._submits.get(peer, 0) + 1
        claim = Claim(peer, request, attempt, limit, ordinal)
        assert (peer, request, attempt) not in self._legs, "attempts are never reused"
        self._legs[peer, request, attempt] = claim
        self._by_peer.setdefault(peer, {})[request, attempt] = claim
        self._digests[peer] = self._digests.get(peer, 0) ^ mix(request, attempt)
        return claim

    def remove(self, claim: Claim) -> None:
        """A leg that is over."""
        del self._legs[claim.peer, claim.request, claim.attempt]
        legs = self._by_peer[claim.peer]
        del legs[claim.request, claim.attempt]
        self._digests[claim.peer] ^= mix(claim.request, claim.attempt)

    def compare(self, peer: int, sync: Sync) -> tuple[list[LegName], list[Claim]]:
        """What a holder lists that we do not know, and what it ought to list and does not."""
        theirs = {(leg.request, leg.attempt): leg for leg in sync.legs}
        ours = self._by_peer.get(peer, {})
        unknown = [leg for name, leg in theirs.items() if name not in ours]
        missing = [claim for name, claim in ours.items() if claim.ordinal <= sync.submits and name not in theirs]
        vanished = [claim for claim in missing if claim.state is not Leg.SETTLING]  # that one has ended, as we know
        return unknown, vanished

    def drop_peer(self, peer: int) -> list[Claim]:
        """Forget everything about a peer whose sessions are void; the next session counts its Submits anew."""
        claims = list(self._by_peer.pop(peer, {}).values())
        for claim in claims:
            del self._legs[peer, claim.request, claim.attempt]
        self._digests.pop(peer, None)
        self._submits.pop(peer, None)
        return claims

    def check(self) -> None:
        """Assert that the three views agree."""
        assert len(self._legs) == sum(len(legs) for legs in self._by_peer.values())
        for peer, legs in self._by_peer.items():
            digest = 0
            for (request, attempt), claim in legs.items():
                assert self._legs[peer, request, attempt] is claim
                assert claim.state not in (Leg.NEW, Leg.CLOSED)
                assert (claim.due > 0) == (claim.state in (Leg.STOPPING, Leg.KILLING, Leg.SETTLING)), claim.state
                digest ^= mix(request, attempt)
            assert digest == self._digests.get(peer, 0)
