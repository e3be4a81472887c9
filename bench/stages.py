"""Shell. What a token costs at each stage of its way, in one process and without sockets, so that a regression shows.

    python -m bench.stages [--streams 1 64 256] [--tokens 20000] [--json]

The cores are the real ones, joined by the real codec: a worker's simulated engine, host and holder, a frontend's owner,
detokenizer and events. Figures are CPU microseconds per token of the thread that runs them; what the kernel and the
event loop add is seen in `bench.serving`. `credit` is everything that goes the other way.
"""

import argparse
import gc
import json
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, TypeVar

from xxhash import xxh3_64_intdigest

from bench.tinymodel import made
from bench.truth import Prompts, Truth
from mesh.core import TICK, Ask, Deliver, Event, Finish, Found, Halt, Heard, Hint, Start, Transmit, Want
from mesh.node import Node, Settings
from nodes.contract.engine import Step
from nodes.engines.scheduler import Limits
from nodes.engines.sim import Settings as Simulated
from nodes.engines.sim import SimEngine
from nodes.engines.timing import Timing
from nodes.folder import contents_of
from nodes.frontend import limits
from nodes.frontend.broadcast import Broadcast, Turns
from nodes.frontend.choice import Choice
from nodes.frontend.completions import Prepared, choice_of
from nodes.frontend.generation import Generation
from nodes.frontend.models import Model
from nodes.frontend.tally import Tally
from nodes.frontend.texts import build
from nodes.generation import Generation as Wanted
from nodes.generation import encode as encode_wanted
from nodes.names import endpoint_of
from nodes.openai.demand import Chat, Demand, Kind
from nodes.openai.responses import Answer
from nodes.paced import PacedHost
from nodes.text.tokenizer import ModelFiles, digest
from proto import codec
from proto.messages import Offer, Role

MODEL = "tiny"
ANSWER_TOKENS = 128
DEMAND = Demand(kind=Kind.CHAT, model=MODEL, chat=Chat([]), stream=True, usage=True, ignore_eos=True)
WINDOW = limits.WINDOW_TOKENS
STAGES = ("engine step", "host", "holder", "encode", "decode", "owner", "feed", "text and JSON", "framing", "credit")
FRONTEND, WORKER = 1, 2
Result = TypeVar("Result")


class Clock:
    """CPU time by stage; what is measured within a stage counts there and not outside."""

    def __init__(self) -> None:
        self.spent_ns = dict.fromkeys((*STAGES, "other"), 0)
        self._stack: list[str] = []
        self._since = 0

    @contextmanager
    def stage(self, name: str) -> Any:
        """What is done here belongs to this stage."""
        self._switch()
        self._stack.append(name)
        yield
        self._switch()
        self._stack.pop()

    def _switch(self) -> None:
        now = time.thread_time_ns()
        if self._stack:
            self.spent_ns[self._stack[-1]] += now - self._since
        self._since = now

    def reset(self) -> None:
        """Forget the warm-up."""
        self.spent_ns = dict.fromkeys(self.spent_ns, 0)


class TimedEngine(SimEngine):
    """The simulated engine; its steps are a stage of their own."""

    clock: Clock

    def step(self) -> Step:
        with self.clock.stage("engine step"):
            return super().step()


class Line:
    """A frontend's and a worker's node with a wire between them, and all that stands at its ends."""

    def __init__(self, truth: Truth, streams: int, prompts: Prompts) -> None:
        self.clock = Clock()
        self.now = 0.0
        self.tokens = 0
        self.steps = 0
        self.bytes = 0
        self._truth = truth
        self._prompts = prompts
        self._feeds: dict[int, Choice] = {}
        self._shown: list[list[bytes]] = []
        self.due: list[Callable[[], None]] = []
        self._turns = Turns(self)  # type: ignore[arg-type]  # of a loop it needs two methods
        self._tally = Tally()
        contents = contents_of(truth.folder)
        self._text = build(contents, digest(ModelFiles(**contents)))
        card: Any = None  # what a choice is made of does not look at it
        self._model: Model[Any] = Model(MODEL, card)
        self._delivered: list[Deliver] = []
        self._finished: list[Finish] = []
        self._frames: deque[tuple[int, int, bytes]] = deque()  # (target, session, frame)
        bounds = Limits(truth.tokenizer.vocabulary, 4096, slots=streams, step_tokens=8192, waiting_max=streams)
        engine = TimedEngine(Simulated(bounds, Timing(0.0), truth.span, MODEL), xxh3_64_intdigest)
        engine.clock = self.clock
        self._host = PacedHost(engine, truth.tokenizer.vocabulary)
        self._do: dict[type[Any], Callable[[Any, int], object]] = {
            Transmit: self._transmit,
            Deliver: lambda effect, _: self._delivered.append(effect),
            Finish: lambda effect, _: self._finished.append(effect),
            Start: lambda effect, _: self._host.start(effect, self.now),
            Halt: lambda effect, _: self._host.halt(effect, self.now),
            Hint: lambda effect, _: self._host.hint(effect, self.now),
        }
        offer = Offer(endpoint_of(MODEL), resumable=True, slots=streams)
        self._nodes = {FRONTEND: self._node(FRONTEND, Role.CLIENT), WORKER: self._node(WORKER, Role.WORKER, offer)}
        self._tell(FRONTEND, Want(endpoint_of(MODEL)))
        self._tell(FRONTEND, Found(self._nodes[WORKER].record()))
        self._settle()
        for _ in range(streams):
            self._ask()

    def _node(self, number: int, role: Role, *offers: Offer) -> Node:
        settings = Settings(number, f"node {number}", "bench", b"", number, "here", role, (f"ipc:///{number}",), offers)
        return Node(settings, self.now)

    # --- One turn of everything ------------------------------------------------------------------------------

    def turn(self) -> None:
        """A step of the engine, and all that comes of it, to the last byte."""
        clock = self.clock
        made: list[Event] = []
        with clock.stage("host"):
            self._host.turn(self.now, made.append)
        self.steps += 1
        with clock.stage("holder"):
            for event in made:
                self._tell(WORKER, event)
        self._settle()
        self._show()
        with clock.stage("credit"):
            self._settle()

    def _settle(self) -> None:
        """Until nobody has anything to say now."""
        while self._frames or any(node.deadline() <= self.now for node in self._nodes.values()):
            for number, node in self._nodes.items():
                while node.deadline() <= self.now:
                    with self.clock.stage("holder" if number == WORKER else "owner"):
                        self._tell(number, TICK)
            while self._frames:
                self._arrive(*self._frames.popleft())

    def _arrive(self, target: int, session: int, frame: bytes) -> None:
        with self.clock.stage("decode"):
            sequence, message = codec.decode(frame)
        with self.clock.stage("owner" if target == FRONTEND else "holder"):
            self._tell(target, Heard(b"%d" % session, sequence, message, len(frame)))

    def _tell(self, number: int, event: Event) -> None:
        for effect in self._nodes[number].handle(event, self.now):
            do = self._do.get(type(effect))
            if do is not None:
                do(effect, number)

    def _transmit(self, effect: Transmit, number: int) -> None:
        with self.clock.stage("encode"):
            frame = codec.encode(effect.sequence, effect.message)
        self._frames.append((FRONTEND + WORKER - number, effect.session, frame))

    # --- The client's side -----------------------------------------------------------------------------------

    def _show(self) -> None:
        """What a frontend does at the end of a turn of its loop. Each stage does all streams: a clock costs, too."""
        clock, feeds = self.clock, self._feeds
        delivered, self._delivered = self._delivered, []
        finished, self._finished = self._finished, []
        with clock.stage("feed"):
            for effect in delivered:
                feeds[effect.request].deliver(effect.position, effect.items, effect.tokens)
            for finish in finished:
                feeds[finish.request].end(finish)
        self.tokens += sum(len(effect.tokens) for effect in delivered)
        due, self.due = self.due, []
        with clock.stage("text and JSON"):
            for callback in due:
                callback()
        shown, self._shown = self._shown, []
        with clock.stage("framing"):
            written = [framed(events[0] if len(events) == 1 else b"".join(events)) for events in shown]
        self.bytes += sum(map(len, written))
        for finish in finished:
            del feeds[finish.request]
            self._ask()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """As a loop would: `Turns` asks for it."""
        self.due.append(callback)

    def time(self) -> float:
        """Likewise."""
        return self.now

    def _post(self, event: Event) -> None:
        with self.clock.stage("credit"):
            self._tell(FRONTEND, event)

    def _ask(self) -> None:
        """One more request, where one has ended."""
        tokens = self._truth.prompt(self._prompts.next())
        request = self._nodes[FRONTEND].next_request()
        broadcast = Broadcast(self._turns, self._post, False, ignore, ignore)
        answer = Answer(f"chatcmpl-{request}", 1_700_000_000, DEMAND)
        broadcast.generation = Generation(str(request), answer, [len(tokens)], WINDOW // 4, self.now, self._tally)
        choice = choice_of(Prepared(DEMAND, self._model, "", self._text, [tokens]), broadcast, request, 0, 0, None)
        broadcast.generation.add(choice)
        broadcast.join(Reader(self._shown_now))
        self._feeds[request] = choice
        payload = encode_wanted(Wanted(max_tokens=ANSWER_TOKENS, ignore_eos=True))
        self._tell(FRONTEND, Ask(request, endpoint_of(MODEL), payload, tokens, window=WINDOW))

    def _shown_now(self, events: list[bytes]) -> None:
        self._shown.append(events)


class Reader:
    """Somebody who reads a stream, and keeps up."""

    behind = False

    def __init__(self, take: Callable[[list[bytes]], None]) -> None:
        self.cursor = 0
        self._take = take

    def take(self, events: list[bytes], now: float) -> None:
        """The next events."""
        self._take(events)

    def pump(self, now: float) -> None:
        """The end."""


def ignore(broadcast: Broadcast) -> None:
    """It is over; we know it from its `Finish`."""


def framed(data: bytes) -> bytes:
    """As it goes to the socket."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def measure(truth: Truth, streams: int, tokens: int) -> dict[str, float]:
    """Microseconds per token, by stage."""
    gc.disable()  # nodes see to it that it is rare
    line = Line(truth, streams, Prompts(truth, 128, seed=1))
    while line.tokens < min(tokens // 4, streams * ANSWER_TOKENS * 2):
        line.turn()
    line.clock.reset()
    before = line.tokens
    while line.tokens < before + tokens:
        line.turn()
    gc.enable()
    made = line.tokens - before
    return {name: line.clock.spent_ns[name] / made / 1000 for name in STAGES}


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    truth = Truth(made())
    found = {streams: measure(truth, streams, options.tokens) for streams in options.streams}
    if options.json:
        print(json.dumps(found))
        return 0
    print("| µs per token | " + " | ".join(f"{streams} streams" for streams in found) + " |")
    print("|---|" + "---|" * len(found))
    for name in STAGES:
        print(f"| {name} | " + " | ".join(f"{stages[name]:.2f}" for stages in found.values()) + " |")
    print("| all | " + " | ".join(f"{sum(stages.values()):.2f}" for stages in found.values()) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
