"""Pure. The engine host: between the legs that a node holds and the jobs that its engine runs.

Every leg that was started ends in exactly one event: Finished, Failed or Yielded. Commands reach the engine between two
steps, a cancelled job's room is free as soon as the engine has heard of it, and a step is one event. Two drivers share
this: `PacedHost` below steps a simulated engine in somebody's event loop and in somebody's time; `nodes.host` runs an
engine that computes in a thread of its own. What an engine raises is passed on: it is dead then, and so is its process.
"""

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import Any

from msgspec import Struct

from mesh.core import Event, Failed, Finished, Halt, Hint, Leg, Start, Stepped, Yielded
from nodes import generation
from nodes.engines.contract import FULL, Ending, Engine, EngineLoad, Job, Output, Step
from nodes.metrics import Family, Histogram, counter, gauge, histogram
from proto import codec, limits
from proto.errors import Reason

STEP_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # beyond 5 s it is hung
OUTCOMES = ("complete", "length", "stopped", "cancelled", "preempted", "failed", "refused", "full")


class Cancel(Struct):
    """A command to an engine: free this job's room."""

    key: Hashable


Command = Job | Cancel


class Applied(Struct):
    """What an engine says to commands at once."""

    refused: list[tuple[Hashable, str]] = []
    freed: list[Hashable] = []


def apply(engine: Engine, commands: Sequence[Command]) -> Applied:
    """Tell an engine what has come up, between two steps."""
    applied = Applied([], [])
    for command in commands:
        if type(command) is Job:
            refusal = engine.submit(command)
            if refusal is not None:
                applied.refused.append((command.key, refusal))
        else:
            engine.cancel(command.key)
            applied.freed.append(command.key)
    return applied


class Run(Struct):
    """A leg that the engine has, or is about to get."""

    hinted: bool = False
    halted: bool = False
    cancelled_at: float = inf


class Counts:
    """What happened here, in plain numbers."""

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.started = 0
        self.prompt_tokens = 0
        self.resumed_tokens = 0
        self.cached_tokens = 0
        self.computed_tokens = 0
        self.generated_tokens = 0
        self.steps = 0
        self.step_s = Histogram(STEP_BOUNDS_S)
        self.cancels = 0
        self.cancel_s = Histogram(STEP_BOUNDS_S)
        self.faults = 0


class HostCore:
    """All legs of one engine. Its methods say what has happened; what they return is for the node."""

    def __init__(self, vocabulary: int = limits.TOKEN_ID_MAX + 1, digest: str = "") -> None:
        self.runs: dict[Leg, Run] = {}
        self._vocabulary = vocabulary
        self._digest = digest
        self.counts = Counts()

    # --- From the node -----------------------------------------------------------------------------------

    def start(self, start: Start) -> Job | Failed:
        """The job of a leg, or why there is none."""
        counts = self.counts
        counts.started += 1
        try:
            wanted = generation.decode(start.payload)
        except ValueError as error:
            counts.outcomes["refused"] += 1
            return Failed(start.leg, Reason.INVALID, text=str(error))
        if wanted.digest not in ("", self._digest):
            counts.outcomes["refused"] += 1
            text = "a model of this name with other files is served here"
            return Failed(start.leg, Reason.INVALID, text=text, retryable=True)
        self.runs[start.leg] = Run()
        prompt, generated = codec.unpack(start.prompt), codec.unpack(start.tokens)
        counts.prompt_tokens += len(prompt)
        counts.resumed_tokens += len(generated)
        return generation.job_of(start.leg, wanted, prompt, generated, self._vocabulary)

    def hint(self, hint: Hint, now: float) -> Cancel | None:
        """Its owner has enough: what was made is all that it wants."""
        run = self.runs.get(hint.leg)
        if run is None:
            return None
        run.hinted = True
        return self._cancel(hint.leg, run, now)

    def halt(self, halt: Halt, now: float) -> Cancel | None:
        """It ends here: cancelled, or to go on elsewhere."""
        run = self.runs.get(halt.leg)
        if run is None:
            return None
        run.halted = True
        return self._cancel(halt.leg, run, now)

    def _cancel(self, leg: Leg, run: Run, now: float) -> Cancel | None:
        if run.cancelled_at < inf:
            return None
        run.cancelled_at = now
        self.counts.cancels += 1
        return Cancel(leg)

    # --- From the engine -----------------------------------------------------------------------------------

    def applied(self, applied: Applied, now: float) -> list[Event]:
        """The engine has taken its commands."""
        events: list[Event] = []
        for key, refusal in applied.refused:
            self._refused(key, refusal, events)
        for key in applied.freed:
            self._freed(key, now, events)
        return events

    def ended_before(self, step: Step) -> list[Event]:
        """The ends that a step reports and did not make: they need not wait until it is over."""
        early = [output for output in step.outputs if not output.tokens]
        if not early:
            return []
        step.outputs = [output for output in step.outputs if output.tokens]
        events: list[Event] = []
        for output in early:
            self._ended(output, events)
        return events

    def stepped(self, step: Step, took_s: float) -> list[Event]:
        """A step is over. This runs for each token that is made here, so what is common is inline."""
        counts = self.counts
        counts.steps += 1
        counts.step_s.add(took_s)
        counts.computed_tokens += step.computed_tokens
        made: list[Any] = []
        cached: list[Any] = []
        ended: list[Output] = []
        generated = 0
        for output in step.outputs:
            if tokens := output.tokens:
                rows = output.logprobs
                made.append((output.key, tokens, [*map(generation.encode_logprobs, rows)] if rows else ()))
                generated += len(tokens)
            if output.cached_tokens:
                cached.append((output.key, output.cached_tokens))
                counts.cached_tokens += output.cached_tokens
            if output.ending is not None:
                ended.append(output)
        counts.generated_tokens += generated
        events: list[Event] = [Stepped(made, cached)]
        for output in ended:
            self._ended(output, events)
        return events

    def _refused(self, key: Hashable, refusal: str, events: list[Event]) -> None:
        leg = self._over(key, "full" if refusal == FULL else "refused")
        if leg is None:
            return
        if refusal == FULL:
            events.append(Failed(leg, Reason.BUSY, text=refusal, retryable=True))
        else:
            events.append(Failed(leg, Reason.INVALID, text=refusal))

    def _freed(self, key: Hashable, now: float, events: list[Event]) -> None:
        run = self.runs.get(key)  # type: ignore[call-overload]
        if run is None:
            return
        self.counts.cancel_s.add(max(0.0, now - run.cancelled_at))
        leg = self._over(key, "cancelled" if run.halted else "stopped")
        assert leg is not None
        events.append(Yielded(leg) if run.halted else Finished(leg))

    def _ended(self, output: Output, events: list[Event]) -> None:
        """An end that came by itself. The end of a cancelled job was told when its room was freed."""
        run = self.runs.get(output.key)  # type: ignore[call-overload]
        if run is None:
            return
        ending = output.ending
        if ending is Ending.PREEMPTED and run.hinted:
            ending = Ending.CANCELLED  # its owner has enough: it need not go on elsewhere
        outcome, made = _event(output.key, ending, output.text, run)  # type: ignore[arg-type]
        self._over(output.key, outcome)
        events.append(made)

    def _over(self, key: Hashable, outcome: str) -> Leg | None:
        if self.runs.pop(key, None) is None:  # type: ignore[call-overload]
            return None
        self.counts.outcomes[outcome] += 1
        return key  # type: ignore[return-value]

    def check(self) -> None:
        """Assert every invariant."""
        assert self.counts.started == len(self.runs) + sum(self.counts.outcomes.values()), "a leg has one end"
        for run in self.runs.values():
            assert (run.cancelled_at < inf) == (run.hinted or run.halted)


def _event(leg: Leg, ending: Ending | None, text: str, run: Run) -> tuple[str, Event]:
    """What a job's end means for its leg."""
    match ending:
        case Ending.STOP:
            return "complete", Finished(leg)
        case Ending.LENGTH:
            return "length", Finished(leg, Reason.LENGTH)
        case Ending.PREEMPTED:
            return "preempted", Yielded(leg, Reason.PREEMPT)
        case Ending.FAILED:
            return "failed", Failed(leg, Reason.FAILED, text=text)
        case _:
            return ("cancelled", Yielded(leg)) if run.halted or not run.hinted else ("stopped", Finished(leg))


class PacedHost:
    """An engine that is stepped in the time of whoever calls: its steps say themselves how long they take."""

    def __init__(self, engine: Engine, vocabulary: int = limits.TOKEN_ID_MAX + 1, digest: str = "") -> None:
        self.core = HostCore(vocabulary, digest)
        self.engine = engine
        self._commands: list[Command] = []
        self._step: Step | None = None  # it runs until `_due`
        self._due = -inf  # when the step that runs is over, or the last one was
        self._began = -inf

    def start(self, start: Start, now: float) -> list[Event]:
        """Run a leg."""
        job = self.core.start(start)
        if type(job) is Failed:
            return [job]
        self._commands.append(job)  # type: ignore[arg-type]
        return []

    def hint(self, hint: Hint, now: float) -> None:
        self._tell(self.core.hint(hint, now))

    def halt(self, halt: Halt, now: float) -> None:
        self._tell(self.core.halt(halt, now))

    def _tell(self, command: Cancel | None) -> None:
        if command is not None:
            self._commands.append(command)

    def deadline(self) -> float:
        """When `turn` is wanted; -inf: at once."""
        if self._step is not None:
            return self._due
        return -inf if self._commands or not self.engine.idle() else inf

    def turn(self, now: float, post: Callable[[Event], None]) -> None:
        """Tell of the step that is over, begin the next, and if that takes no time tell of it too.

        `post` may call `start`, `halt` and `hint`: what follows from the end of a step or of a cancel is in the next.
        """
        for event in self._end(now):
            post(event)
        if self._step is None:
            while self._commands:  # a room that is free now has its next user in this step
                for event in self._heed(now):
                    post(event)
            for event in self._begin(now):
                post(event)
            for event in self._end(now):
                post(event)

    def wake(self, now: float) -> None:
        """The step that runs is over now, however long it meant to take."""
        self._due = min(self._due, now)

    def load(self) -> EngineLoad:
        return self.engine.load()

    def check(self) -> None:
        """Assert every invariant."""
        self.core.check()

    def _end(self, now: float) -> list[Event]:
        if self._step is None or now < self._due:
            return []
        step, self._step = self._step, None
        return self.core.stepped(step, max(self._due - self._began, 0.0))

    def _heed(self, now: float) -> list[Event]:
        commands, self._commands = self._commands, []
        return self.core.applied(apply(self.engine, commands), now)

    def _begin(self, now: float) -> list[Event]:
        if self.engine.idle():
            self._due = -inf
            return []
        step = self.engine.step()
        events = self.core.ended_before(step) if step.wait_s > 0 else []
        # A step begins where the last one ended, not where the loop came by, or each would be longer than it says.
        self._began = self._due if now - self._due < step.wait_s else now
        self._step, self._due = step, self._began + step.wait_s
        return events


def families(counts: Counts, load: EngineLoad) -> list[Family]:
    """The metrics of an engine host."""
    name = "wiremesh_engine_"
    outcomes: dict[str, float] = dict(counts.outcomes)
    running = {"running": load.running, "waiting": load.waiting}
    blocks = {"used": load.blocks_used, "free": load.blocks_total - load.blocks_used}
    tokens = {
        "prompt": counts.prompt_tokens,
        "resumed": counts.resumed_tokens,
        "cached": counts.cached_tokens,
        "computed": counts.computed_tokens,
        "generated": counts.generated_tokens,
    }
    return [
        counter(f"{name}requests_total", "Requests that the engine host has ended, by how.", outcomes, "outcome"),
        counter(f"{name}tokens_total", "Tokens, by what was done with them.", tokens, "kind"),
        counter(f"{name}steps_total", "Forward passes.", counts.steps),
        histogram(f"{name}step_seconds", "How long a forward pass took.", counts.step_s),
        gauge(f"{name}active_requests", "Requests in the engine.", running, "state"),
        gauge(f"{name}blocks", "Blocks of the key-value cache.", blocks, "state"),
        counter(f"{name}cancels_total", "Requests that were cancelled, stopped or moved away.", counts.cancels),
        histogram(f"{name}cancel_seconds", "From a cancel to the room that is free.", counts.cancel_s),
        counter(f"{name}faults_total", "Faults that were put in on command.", counts.faults),
    ]
