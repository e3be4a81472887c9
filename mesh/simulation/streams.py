"""Pure. The caller of a simulated request: reads at its own pace, changes its mind, and keeps books for the oracles."""

from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.core import Abandon, Ask, Consumed, Deliver, Finish
from mesh.simulation import reference
from mesh.simulation.legs import Seen
from mesh.simulation.plan import CHECKED, RESUMABLE, TOKENS, Call, Work
from proto.errors import Reason
from proto.messages import Strength

if TYPE_CHECKING:
    from mesh.simulation.process import Process

NOBODY = Seen()

_encode = msgspec.msgpack.Encoder().encode


class Stream:
    """One request, as its caller sees it."""

    def __init__(self, process: "Process", endpoint: str, work: Work, prompt: list[int]) -> None:
        self.process = process
        self.endpoint = endpoint
        self.work = work
        self.prompt = prompt
        self.expected = reference.expected(endpoint, work, prompt)
        self.payload = _encode(work)
        self.resumable = endpoint in RESUMABLE
        self.request = 0
        self.window = 0
        self.position = 0
        self.taken = 0
        self.said = 0  # what the core was told was taken
        self.stall_s = 0.0
        self.deadline = inf  # on the process's own clock
        self.over: Finish | None = None
        self.gone = False  # its process has died
        self.patience_s = 0.0
        self.feeders: tuple[str, ...] = ()  # all that an itinerary of it may have before its endpoint, in their order
        self.asked: dict[Reason, float] = {}  # stops and kills, and when
        # For the oracles: the current leg, as the messages showed it.
        self.began = process.clock.now
        self.legs: list[Seen] = []  # all of them
        self.advances = 0  # legs that another one made room for
        self.handles: list[bytes] = []  # all that its owner heard of
        self.carried = b""  # of a holder that handed it over: the next one needs it
        self.settled_at = self.began  # when its owner heard that it was accepted
        self.rejects = 0
        self.retried = 0  # failures that a holder called passing, and legs that it handed over
        self.moves_max = 8  # as Ask has it
        self.away: dict[str, float] = {}  # until when a process said to stay away
        self.begun = False  # some handler of it has started
        self.unheard = 0  # holders in a row that were lost before they could say that it runs
        self.suspect = False  # its last holder may have died of it
        self.accused = ""  # who did, while it ran there alone
        self.last_unit = process.clock.now

    @property
    def newest(self) -> Seen:
        """The leg that was submitted last."""
        return self.legs[-1] if self.legs else NOBODY

    @property
    def attempt(self) -> int:
        """Its number."""
        return self.newest.attempt

    @property
    def holder(self) -> str:
        """Who has it."""
        return self.newest.holder

    def leg(self, attempt: int, holder: str) -> Seen | None:
        """The leg of this name."""
        found = (leg for leg in reversed(self.legs) if leg.attempt == attempt and leg.holder == holder)
        return next(found, None)

    def living(self) -> list[Seen]:
        """The legs that its owner must count on."""
        return [leg for leg in self.legs if leg.lives(self.process)]

    def ask(self, window: int, patience_s: float, timeout_s: float = 0.0, **more: Any) -> None:
        """Begin."""
        process = self.process
        self.request = process.node.next_request()
        self.window = window
        self.patience_s = patience_s
        self.stall_s = more.get("stall_s", 0.0)
        self.feeders = self.feeders or more.get("needs", ())
        if timeout_s:
            self.deadline = process.local() + timeout_s
        process.streams[self.request] = self
        process.oracles.asked(self)
        self.moves_max = more.get("moves_max", self.moves_max)
        ask = Ask(
            self.request, self.endpoint, self.payload, self.prompt,
            window=window, patience_s=patience_s, timeout_s=timeout_s, **more,
        )  # fmt: skip
        process.run(ask)

    def abandon(self, strength: Strength) -> None:
        """Want no more."""
        if self.over is None:
            reason = Reason.STOPPED if strength == Strength.STOP else Reason.KILLED
            self.asked.setdefault(reason, self.process.clock.now)
            self.process.run(Abandon(self.request, strength))
            if strength == Strength.STOP:
                self.process.oracles.obligations.must_stop(self)

    def take(self, position: int) -> None:
        """Everything up to here is read; the core hears of it now and then, as the SDK does it."""
        self.taken = position
        if position - self.said >= max(1, self.window // 4) or position == self.position:
            self.said = position
            if self.over is None:
                self.process.run(Consumed(self.request, position))

    def delivered(self, effect: Deliver) -> None:
        """An effect of the core."""
        self.process.oracles.delivered(self, effect)
        self.position += len(effect.items) or len(effect.tokens)
        self.last_unit = self.process.clock.now
        self.suspect = False
        self.unheard = 0
        self.arrived(effect)

    def finished(self, effect: Finish) -> None:
        """The last effect."""
        self.process.oracles.finished(self, effect)
        self.over = effect
        self.ended(effect)

    def units(self, effect: Deliver) -> list[Any]:
        """What is compared with the undisturbed stream; nothing if it is neither items nor tokens, or both."""
        if effect.items and effect.tokens:
            return []
        return list(effect.items) or list(effect.tokens)

    def resumes_from(self) -> int:
        """The least position that a next holder must be told: all tokens, or the last checkpoint but one."""
        if self.endpoint == TOKENS:
            return self.position
        if self.endpoint != CHECKED:
            return 0
        return max(0, (self.position - 1) // self.work.every * self.work.every)

    def arrived(self, effect: Deliver) -> None:
        """Units have come."""

    def ended(self, effect: Finish) -> None:
        """It is over."""


class ClientStream(Stream):
    """A request of a client, as the plan has it."""

    def __init__(self, process: "Process", call: Call) -> None:
        super().__init__(process, call.endpoint, call.work, reference.prompt_of(call))
        self.call = call
        self.reading = False

    def begin(self) -> None:
        """Ask, and perhaps change one's mind at once."""
        call, process = self.call, self.process
        pinned = process.world.node_of(call.pinned) if call.pinned >= 0 else 0
        more = {"policy": call.policy, "pinned": pinned, "stall_s": call.stall_s, "needs": tuple(call.needs)}
        self.ask(call.window, call.patience_s, call.timeout_s, **more)
        if call.cancel and call.when == "at":
            process.after(call.value, self.cancel)

    def cancel(self) -> None:
        """Change one's mind."""
        self.abandon(Strength.STOP if self.call.cancel == "stop" else Strength.KILL)

    def holder_ended(self) -> None:
        """Its End is under way: the best moment to cancel."""
        if self.call.when == "end" and self.call.cancel:
            self.process.after(self.call.value, self.cancel)

    def arrived(self, effect: Deliver) -> None:
        """Read at one's own pace."""
        call = self.call
        if call.when == "position" and self.position >= call.value and not self.asked:
            self.cancel()
        if call.pace_ms == 0:
            self.take(self.position)
        elif not self.reading:
            self.reading = True
            self.process.after(call.pace_ms / 1000, self._read)

    def _read(self) -> None:
        self.reading = self.taken + 1 < self.position
        self.take(min(self.taken + 1, self.position))
        if self.reading:
            self.process.after(self.call.pace_ms / 1000, self._read)
