"""Pure. One request of ours: what was asked, what was delivered, and the state that a next holder goes on from."""

from math import ceil, inf

from msgspec import Struct

from mesh.claims import Claim
from mesh.core import Ask, Finish
from proto import codec, limits
from proto.errors import Reason, RemoteError
from proto.messages import Part, Reject, Resume, Submit
from proto.placing import RANK

UNHEARD_MAX = 2  # holders that may die before we hear that a request runs there
REJECTS_MAX = 6  # refusals in a row before its caller hears of it
MOVED_PATIENCE_S = 30.0  # a request that was running waits that long for another instance: time for a restart
EXCLUDE_S = 5.0  # a node that failed this request is not tried again for that long

Stop = tuple[int, str, int]  # a node, what it is asked, and which of its ranks; -1: any
Units = tuple[list[int], list[bytes]]  # tokens or items, never both


class Request(Struct, eq=False):
    """One request of ours, from Ask to Finish. `begun` makes it."""

    ask: Ask
    number: int
    deadline: float
    pinned: int  # where it has to begin; once it has begun it may move
    resumable: bool  # tokens always are; items when the endpoint checkpoints
    homeless: float  # since when it has looked for a holder
    heard: float  # when it last moved on
    position: int = 0  # units delivered
    consumed: int = 0  # units that the caller has taken
    tokens: list[int] = []  # all delivered tokens: what a next holder goes on from
    checkpoint: bytes | None = None
    checkpoint_position: int = 0
    attempt: int = 0
    claim: Claim | None = None  # the current leg: its units are taken
    ahead: list[Claim] = []  # legs that were submitted since, and await their turn
    stops: list[Stop] = []  # where it goes when its newest leg has handed
    handles: list[bytes] = []  # where what earlier stops, or an earlier holder, made for it lies
    carries: bool = False  # the latter: the last stop is all it needs
    walk: int = 0  # the attempt of the first leg of this itinerary
    walk_start: int = 0  # units that there were before it
    let_down: bool = False  # a feeder of this itinerary is gone that had handed: what it promised may not come
    placements: int = 0
    waiting: bool = False
    asking: int = 0  # the router that was asked where to place it
    parked: float = 0.0  # since when it has kept us waiting; 0: it has not
    why: str = ""  # what it said
    cached: int = 0
    suspect: bool = False  # its last holder may have died of it
    uneasy: bool = False  # its next unit changes more than its position
    unheard: int = 0  # holders that died, in a row, before we heard that it runs there
    accused: int = 0  # the node that seems to have died of it while it ran there alone
    housed: float = 0.0  # since when some leg of this walk has a place; 0: none has
    started: bool = False  # some leg was submitted: without resume it may have had effects
    stopping: bool = False
    excluded: dict[int, float] = {}  # nodes that are not to be tried before a time
    moves: int = 0  # placements after a loss, since the last new unit
    migrations: int = 0  # placements that a holder asked for
    rejects: int = 0  # refusals in a row
    retry_ms: int = 0  # what the last refusal advised
    moved_at: list[int] = []  # how many units there were when it went on elsewhere, if there were any
    nodes: list[int] = []  # of all legs
    endpoints: list[str] = []

    def legs(self) -> list[Claim]:
        """All legs of its walk, the current one first."""
        return [self.claim, *self.ahead] if self.claim is not None else self.ahead[:]

    def turn_back(self, now: float) -> None:
        """Nobody takes its next stop. The time in which others were at work for it was no search."""
        self.homeless += now - self.housed if self.housed else 0.0

    def drop(self, claim: Claim) -> None:
        """This leg is over."""
        if claim is self.claim:
            self.claim = None
        else:
            self.ahead.remove(claim)

    def limit(self) -> int:
        """Credit: how far the holder may send now."""
        return min(self.consumed + self.ask.window, limits.POSITION_MAX)

    @property
    def rank(self) -> int:
        """Where its last stop should be, if nobody advises: what its caller wished; -1: any."""
        return self.ask.wish.rank if self.ask.wish is not None else -1

    @property
    def moved(self) -> bool:
        """It has been running before: somebody watches it, and it waits longer for a place."""
        return self.moves > 0 or self.migrations > 0 or self.position > 0

    def next_attempt(self, node: int, endpoint: str, now: float) -> None:
        """It is about to be submitted to `node`."""
        self.attempt += 1
        self.started, self.heard, self.uneasy = True, now, True
        self.nodes.append(node)
        self.endpoints.append(endpoint)

    def submit(self, claim: Claim, now: float) -> Submit:
        """The message that starts a leg."""
        ask = self.ask
        remaining_ms = 0 if self.deadline == inf else max(1, ceil((self.deadline - now) * 1000))
        return Submit(
            request=self.number,
            attempt=claim.attempt,
            position=self.position,
            limit=claim.limit,
            endpoint=claim.endpoint,
            payload=ask.payload,
            prompt=codec.pack(ask.prompt),
            resume=self._resume(),
            deadline_ms=min(remaining_ms, limits.DEADLINE_MS_MAX),
            trace=ask.trace,
            metadata=self._metadata(claim),
            suspect=self.suspect,
            handles=[*ask.handles, *self.handles][: limits.HANDLES_MAX],
            awaits=claim.awaits,
        )

    def _metadata(self, claim: Claim) -> dict[str, str]:
        given = self.ask.metadata
        full = len(given) >= limits.METADATA_ENTRIES_MAX  # then the holder chooses its rank
        return given if claim.rank < 0 or full else {**given, RANK: str(claim.rank)}

    def _resume(self) -> Resume | None:
        """The partial state that the next holder goes on from."""
        if self.tokens:
            return Resume(self.position, codec.pack(self.tokens))
        if self.checkpoint is not None:
            return Resume(self.checkpoint_position, state=self.checkpoint)
        return None

    def take(self, part: Part) -> Units:
        """Append what continues the request: what is new of this part. The caller has excluded a gap."""
        tokens, items = codec.unpack(part.tokens), part.items or []
        if (items and not tokens and self.tokens) or (tokens and len(self.tokens) < self.position):
            raise RemoteError(Reason.ILLEGAL, "tokens and items without tokens in one stream")
        if tokens and items and len(tokens) != len(items):
            raise RemoteError(Reason.ILLEGAL, f"{len(items)} items for {len(tokens)} tokens")
        end = part.position + (len(tokens) or len(items))
        known = self.position - part.position
        fresh = (tokens[known:], items[known:]) if end > self.position else ([], [])
        self.append(*fresh)
        if part.checkpoint is not None and end >= self.checkpoint_position:
            self.checkpoint, self.checkpoint_position = part.checkpoint, end
        return fresh

    def append(self, tokens: list[int], items: list[bytes]) -> None:
        """These units are delivered."""
        self.position += len(tokens) or len(items)
        self.tokens.extend(tokens)

    def absolve(self) -> None:
        """A unit has come: it moves on, and its holder lives."""
        self.moves, self.unheard, self.suspect, self.accused, self.uneasy = 0, 0, False, 0, False

    def take_over(self, resume: Resume | None) -> list[int]:
        """Adopt what a migrating holder had: a newer checkpoint, or tokens beyond what it could send."""
        if resume is None:
            return []
        tokens = codec.unpack(resume.tokens)
        if tokens[: self.position] != self.tokens[: len(tokens)]:
            raise RemoteError(Reason.ILLEGAL, "the tokens of a Migrate are not those that were sent")
        fresh = tokens[self.position :]
        self.append(fresh, [])
        if not tokens and self.checkpoint_position <= resume.position <= self.position:
            self.checkpoint, self.checkpoint_position = resume.state, resume.position
        return fresh

    def blame(self, claim: Claim) -> bool:
        """Its holder may have died of it, if nothing came of it. Who kills one alone is guilty.

        That it was running may have died with the holder: to be lost unheard once is bad luck, twice is suspicious. A
        suspect that did not get our word to run is innocent of this death.
        """
        if (self.position > claim.start and not claim.awaits) or (claim.alone and not claim.running):
            return False
        self.uneasy = True
        self.unheard += not claim.running
        if not claim.running and self.unheard < UNHEARD_MAX:
            return False
        self.accused = claim.peer if claim.alone else 0
        self.suspect = True
        return True

    def exclude(self, node: int, now: float, away_s: float = EXCLUDE_S) -> None:
        """Do not try this node again for a while."""
        self.excluded[node] = now + away_s

    def refused(self, node: int, reject: Reject, now: float) -> bool:
        """A node said no; whether its caller has to hear of it. One that was running has more patience."""
        self.rejects += 1
        self.retry_ms = reject.retry_ms
        self.exclude(node, now, reject.retry_ms / 1000 if reject.reason == Reason.BUSY else EXCLUDE_S)
        if reject.reason in (Reason.INVALID, Reason.TOO_LARGE):
            return True
        return now >= self.patient_until() if self.moved else self.rejects >= REJECTS_MAX

    def patient_until(self) -> float:
        """How long it looks for a holder."""
        return self.homeless + (MOVED_PATIENCE_S if self.started else self.ask.patience_s)

    def finish(self, reason: Reason, name: str, text: str) -> Finish:
        """The last effect about it. That time is up is for either side to notice, in the same words."""
        if reason is Reason.DEADLINE:
            text = f"not done within {self.ask.timeout_s:g} s"
        nodes, endpoints = tuple(self.nodes), tuple(self.endpoints)
        history = self.placements, nodes, self.cached, self.why, endpoints, tuple(self.moved_at)
        return Finish(self.number, reason, self.position, name, text, self.retry_ms, *history)

    def check(self) -> None:
        """Assert what must hold between the fields."""
        assert 0 <= self.consumed <= self.position
        assert self.checkpoint_position <= self.position
        assert not self.tokens or len(self.tokens) == self.position
        conditions = self.waiting + (self.asking != 0) + (self.claim is not None)
        assert conditions == 1, "it waits, or a router was asked, or it has a leg"
        legs = self.legs()
        assert self.claim is not None or not self.ahead, "who awaits, awaits somebody"
        assert all(claim.awaits == (claim is not self.claim) for claim in legs)
        attempts = [claim.attempt for claim in legs]
        assert attempts == sorted(attempts) and (not legs or self.walk <= attempts[0] <= attempts[-1] <= self.attempt)
        assert self.stopping or not legs or attempts[-1] == self.attempt, "its newest attempt lives"


def begun(ask: Ask, now: float) -> Request:
    """A request that looks for its first holder."""
    deadline = now + ask.timeout_s if ask.timeout_s > 0 else inf
    return Request(ask, ask.request, deadline, ask.pinned, bool(ask.prompt), now, now)
