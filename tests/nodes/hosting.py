"""A paced host for tests: the simulated engine, its clock, and all that it has said."""

from math import inf
from typing import Any

from xxhash import xxh3_64_intdigest

from mesh.core import Event, Failed, Finished, Leg, Start, Stepped, Yielded
from nodes import generation
from nodes.engines.scheduler import Limits
from nodes.engines.sim import Settings, SimEngine, continuation
from nodes.engines.timing import Timing
from nodes.generation import Generation
from nodes.paced import PacedHost

RANGE = (20, 119)
CONTEXT = 64
STEP_S = 0.02
PACED = Timing(decode_ms=((0, STEP_S * 1000),), prefill_ms=((0, 30),))
AT_ONCE = Timing(speedup=0.0)


def engine_of(timing: Timing = PACED, poison: int = -1, **limits: Any) -> SimEngine:
    given_ = {"vocabulary": 200, "context": CONTEXT, "block_tokens": 4, "blocks": 64, "slots": 4, "step_tokens": 32}
    engine = SimEngine(Settings(Limits(**{**given_, **limits}), timing, RANGE, poison=poison), xxh3_64_intdigest)
    engine.start()
    return engine


def start_of(number: int, prompt: list[int], generated: list[int], wanted: Generation | bytes) -> Start:
    payload = wanted if isinstance(wanted, bytes) else generation.encode(wanted)
    return Start(Leg(7, number, 1), "generate/x", payload, prompt, len(generated), generated, b"", inf, "", {})


class Play:
    """A host, its clock, and all that it has said."""

    def __init__(self, engine: SimEngine) -> None:
        self.engine = engine
        self.host = PacedHost(engine)
        self.now = 100.0
        self.started: dict[Leg, Start] = {}
        self.tokens: dict[Leg, list[int]] = {}
        self.items: dict[Leg, list[bytes]] = {}
        self.ends: dict[Leg, Event] = {}
        self.steps: list[tuple[float, int]] = []

    def post(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self.steps.append((self.now, len(event.made)))
            for leg, tokens, items in event.made:
                assert leg in self.started and leg not in self.ends, "tokens of a leg that is none"
                self.tokens[leg] += tokens
                self.items[leg] += items
                assert not items or len(items) == len(tokens)
            return
        assert isinstance(event, Finished | Failed | Yielded)
        assert event.leg in self.started and event.leg not in self.ends, "a second end"
        self.ends[event.leg] = event

    def start(self, start: Start) -> Leg:
        self.started[start.leg], self.tokens[start.leg], self.items[start.leg] = start, [], []
        for event in self.host.start(start, self.now):
            self.post(event)
        return start.leg

    def turn(self) -> None:
        """To the host's deadline, and act."""
        self.now = max(self.now, self.host.deadline())
        self.host.turn(self.now, self.post)
        self.host.check()
        self.engine.check()

    def until(self, time: float) -> None:
        while self.host.deadline() <= time:
            self.turn()
        self.now = max(self.now, time)

    def finish(self) -> None:
        for _ in range(5_000):
            if self.host.deadline() == inf:
                return
            self.turn()
        raise AssertionError("it never ends")

    def promised(self, leg: Leg) -> list[int]:
        """All that could come of a leg that nobody disturbs."""
        start = self.started[leg]
        wanted = generation.decode(start.payload)
        prompt, said = list(start.prompt), list(start.tokens)
        count = max(0, min(wanted.max_tokens, CONTEXT - len(prompt)) - len(said))
        more = continuation([*prompt, *said], count, RANGE)
        for index, token in enumerate(more):
            if token in wanted.stop_tokens and len(said) + index + 1 > wanted.min_tokens:
                return more[: index + 1]
        return more
