"""Pure. Modelled handlers: event driven, one step at a time, each unit a function of all before it.

A handler asserts that what it is resumed from belongs to the position that it is resumed at.
"""

from collections import deque
from struct import unpack
from typing import TYPE_CHECKING

import msgspec

from mesh.core import Checkpointed, Failed, Finished, Go, Produced, Start, Yielded
from mesh.simulation import reference
from mesh.simulation.plan import CHAIN, CHECKED, FEEDERS, PREFILL, TOKENS, Work
from mesh.simulation.streams import Stream
from proto import codec
from proto.errors import Reason
from proto.messages import Strength

if TYPE_CHECKING:
    from mesh.core import Deliver, Finish
    from mesh.simulation.process import Process

INNER_WINDOW = 8

decode_work = msgspec.msgpack.Decoder(Work).decode
encode_work = msgspec.msgpack.Encoder().encode


class Handler:
    """What runs one leg, from its Start to Finished, Failed or Yielded."""

    __slots__ = (
        "armed", "awaits", "began_at", "buffer", "deadline", "endpoint", "halting", "hinted", "inner", "inner_end",
        "keeps", "leg", "memory", "over", "paused", "position", "process", "work",
    )  # fmt: skip

    def __init__(self, process: "Process", start: Start) -> None:
        self.process = process
        self.leg = start.leg
        self.endpoint = start.endpoint
        self.deadline = start.deadline
        self.work = decode_work(start.payload)
        self.position = self.began_at = start.position
        self.memory = self._memory(start)
        self.armed = self.paused = self.hinted = self.halting = self.over = False
        self.awaits = start.awaits
        self.keeps = False  # somebody goes on with it
        self.inner: Inner | None = None
        self.inner_end: Reason | None = None
        self.buffer: deque[bytes] = deque()

    def _memory(self, start: Start) -> int:
        """What the stream depends on, from the state that came along."""
        if start.endpoint in (TOKENS, *FEEDERS):
            tokens = codec.unpack(start.tokens)
            assert len(tokens) == start.position, "the tokens of a resume do not reach its position"
            return reference.fold(self.work.seed, [*codec.unpack(start.prompt), *tokens])
        if start.endpoint == CHECKED and start.state:
            position, memory = unpack("<II", start.state)
            assert position == start.position, f"a checkpoint of {position} came as one of {start.position}"
            return int(memory)
        assert start.position == 0, "a position without the state that belongs to it"
        return self.work.seed

    def begin(self) -> None:
        """Set out."""
        if self.endpoint == CHAIN:
            work = msgspec.structs.replace(self.work, inner="")
            self.inner = Inner(self.process, self.work.inner, work, self)
            self.inner.ask(window=INNER_WINDOW, patience_s=4.0)
        else:
            self.arm()

    def arm(self) -> None:
        """Take the next step in due time."""
        if not (self.armed or self.awaits or self.paused or self.over or self.inner):
            self.armed = True
            self.process.after(self.work.step_ms / 1000, self._step)

    # --- What the core asks for ------------------------------------------------------------------------

    def pause(self) -> None:
        """Produce no more for now."""
        self.paused = True

    def unpause(self) -> None:
        """Go on."""
        self.paused = False
        self.arm()
        if self.inner:
            self.relay()

    def hint(self) -> None:
        """Finish by yourself, if you heed it."""
        self.hinted = True
        if self.inner:
            self.inner.abandon(Strength.STOP)
        if self.awaits and self.work.heeds:
            self.process.after(self.work.step_ms / 1000, self._given_up)

    def _given_up(self) -> None:
        """It need not await any longer."""
        if self.awaits and not (self.over or self.halting or self.process.hung):
            self._end()

    def go(self, go: Go) -> None:
        """What it awaited is over: these units were made elsewhere."""
        assert self.awaits and go.position == self.position, f"fed at {go.position}, stands at {self.position}"
        self.awaits = False
        self.memory = reference.fold(self.memory, list(go.tokens))
        self.position += len(go.tokens)
        self.began_at = self.position
        self.arm()

    def halt(self, keep: bool = False) -> None:
        """End now."""
        if not self.halting:
            self.halting = True
            self.keeps = keep and self.endpoint == TOKENS and self.work.seed % 3 > 0
            if self.inner:
                self.inner.abandon(Strength.KILL)
            self.process.after(self.work.halt_ms / 1000, self._halted)

    def unhang(self) -> None:
        """The engine moves again."""
        if self.halting:
            self._halted()
        else:
            self.arm()

    # --- Steps -------------------------------------------------------------------------------------------

    def _step(self) -> None:
        self.armed = False
        if self.over or self.halting or self.paused or self.process.hung:
            return
        work = self.work
        self.process.oracles.stepped(self)
        if self.position >= work.units or (self.hinted and work.heeds):
            self._end()
        elif self.position >= work.fail_at >= 0 and (self.leg.attempt == 1 or not work.retryable):
            text = f"told to fail at {work.fail_at}"
            self._gone()
            self.process.run(Failed(self.leg, Reason.FAILED, "Told", text, work.retryable))
        else:
            until = min(self.position + work.batch, work.units)
            if self.position < work.fail_at < until:
                until = work.fail_at
            self._produce(until)
            self.process.progressed()
            self.arm()

    def _produce(self, until: int) -> None:
        items: list[bytes] = []
        tokens: list[int] = []
        while self.position < until:
            if self.endpoint in (TOKENS, PREFILL):
                token, self.memory = reference.advance_token(self.memory)
                tokens.append(token)
            elif self.endpoint == CHECKED:
                item, self.memory = reference.advance_item(self.memory, self.position)
                items.append(item)
            else:
                items.append(reference.plain_item(self.work.seed, self.position))
            self.position += 1
            if self.endpoint == CHECKED and self.position % self.work.every == 0:
                self.process.run(Produced(self.leg, items))
                self.process.run(Checkpointed(self.leg, reference.checkpoint(self.position, self.memory)))
                items = []
        if items or tokens:
            self.process.oracles.suspects.made(self.leg)
            self.process.run(Produced(self.leg, items, tokens))

    def _end(self) -> None:
        self._gone()
        self.process.run(Finished(self.leg))

    def _halted(self) -> None:
        if self.over or self.process.hung:
            return
        if self.position >= self.work.units and self.work.seed % 2 and not self.awaits:
            self._end()  # it returned at the very moment
        else:
            self._gone()
            self.process.run(Yielded(self.leg, handle=self.handle() if self.keeps else b""))

    def handle(self) -> bytes:
        """Where what it has lies; whose it is can be told from it."""
        return b"%d %s" % (self.leg.attempt, self.process.label.encode())

    def _gone(self) -> None:
        process = self.process
        self.over = True
        if len(process.handlers) >= process.spec.slots:
            process.last_full = process.clock.now
        del process.handlers[self.leg]

    # --- Chains ------------------------------------------------------------------------------------------

    def relay(self) -> None:
        """Pass on what has come from within, unless the reader is behind."""
        if self.over or self.halting or self.inner is None:
            return
        while self.buffer and not self.paused:
            self.position += 1
            self.process.run(Produced(self.leg, [self.buffer.popleft()]))
            if self.inner is not None:
                self.inner.take(self.position)
        if self.inner_end is not None and not self.buffer and not self.over:
            if self.inner_end in (Reason.COMPLETE, Reason.STOPPED):
                self._end()
            else:
                self._gone()
                self.process.run(Failed(self.leg, Reason.FAILED, "Inner", self.inner_end.label))


class Inner(Stream):
    """The request behind a chain."""

    def __init__(self, process: "Process", endpoint: str, work: Work, handler: Handler) -> None:
        prompt: list[int] = []
        super().__init__(process, endpoint, work, prompt)
        self.handler = handler

    def arrived(self, effect: "Deliver") -> None:
        """Units have come."""
        self.handler.buffer.extend(effect.items)
        self.handler.relay()

    def ended(self, effect: "Finish") -> None:
        """It is over."""
        self.handler.inner_end = effect.reason
        self.handler.relay()
