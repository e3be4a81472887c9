"""What a host does with legs that wait for others: for embeddings, for blocks, and for an encoder's leg to be over."""

from collections.abc import Callable, Sequence
from math import inf

from mesh.core import Event, Failed, Finished, Go, Halt, Leg, Prepared, Start, Stepped, Yielded
from nodes import generation
from nodes.contract.media import IMAGE, Media, Spot
from nodes.generation import Generation
from nodes.host_core import HostCore
from nodes.paced import PacedHost
from tests.nodes.hosting import AT_ONCE, engine_of

LEG = Leg(7, 1, 2)
SPOT = Spot(IMAGE, 1, 2, b"a name of 16 byt")


class Desk:
    """One whose embeddings come when a test says so."""

    def __init__(self) -> None:
        self.done: Callable[[list[Media] | Failed], None] | None = None

    def embed(
        self, leg: Leg, spots: Sequence[Spot], handles: Sequence[bytes], done: Callable[[list[Media] | Failed], None]
    ) -> None:
        self.done = done

    def forget(self, leg: Leg) -> None:
        self.done = None


def begun(endpoint: str, awaits: bool, shows: bool) -> tuple[PacedHost, Desk, list[Event]]:
    """A host with one leg, and all that it says from now on."""
    host, desk, said = PacedHost(engine_of(AT_ONCE)), Desk(), list[Event]()
    host.core.desk, host.core.wake = desk, said.extend
    payload = generation.encode(Generation(max_tokens=4, media=(SPOT,) if shows else ()))
    start = Start(LEG, endpoint, payload, [5, 6, 7, 8, 9], 0, [], b"", inf, "", {}, (), awaits)
    said += host.start(start, 0.0)
    return host, desk, said


def turned(host: PacedHost, said: list[Event]) -> list[Event]:
    """What it has said after some turns."""
    for _ in range(8):
        if host.deadline() <= 0.0:
            host.turn(0.0, said.append)
    host.check()
    return said


def made(said: list[Event]) -> int:
    """How many tokens."""
    return sum(len(tokens) for event in said if isinstance(event, Stepped) for _, tokens, _ in event.made)


def here() -> list[Media]:
    return [Media(SPOT.first, SPOT.count, SPOT.content, b"rows")]


def test_a_prefill_makes_no_token_before_the_leg_of_its_encoder_is_over() -> None:
    host, _, said = begun("prefill/m", awaits=True, shows=False)
    assert not turned(host, said) and host.core.at_rest
    host.go(Go(LEG, 0, []), 0.0)
    assert not host.core.at_rest
    assert made(turned(host, said)) == 1 and isinstance(said[-1], Finished)


def test_it_waits_for_its_embeddings_and_for_that() -> None:
    for first in ("embeddings", "go"):
        host, desk, said = begun("prefill/m", awaits=True, shows=True)
        for what in (first, "go" if first == "embeddings" else "embeddings"):
            assert not turned(host, said) and host.core.at_rest
            if what == "go":
                host.go(Go(LEG, 0, []), 0.0)
            else:
                assert desk.done is not None
                desk.done(here())
        assert made(turned(host, said)) == 1 and isinstance(said[-1], Finished), first


def test_one_that_waits_can_be_halted_and_can_fail() -> None:
    for endpoint in ("prefill/m", "generate/m"):
        for shows in (False, True):
            host, _, said = begun(endpoint, awaits=True, shows=shows)
            said += host.halt(Halt(LEG), 0.0)
            ends = [event for event in turned(host, said) if not isinstance(event, Stepped)]
            assert [type(event) for event in ends] == [Yielded] and not host.core.runs
            host.go(Go(LEG, 0, []), 0.0)
            assert not made(turned(host, said))
    host, desk, said = begun("prefill/m", awaits=True, shows=True)
    assert desk.done is not None
    desk.done(Failed(LEG, text="it did not come", retryable=True))
    host.go(Go(LEG, 0, []), 0.0)
    assert [type(event) for event in turned(host, said)] == [Failed] and not host.core.runs


def test_a_prefill_that_awaits_nothing_begins_at_once() -> None:
    host, _, said = begun("prefill/m", awaits=False, shows=False)
    assert made(turned(host, said)) == 1
    assert not any(isinstance(event, Prepared) for event in said), "there is no memory to hand over in"


def test_an_engine_that_nobody_needs_now_is_well() -> None:
    host, desk, said = begun("generate/m", awaits=False, shows=True)
    assert not turned(host, said) and host.core.at_rest, "it waits for its embeddings"
    assert desk.done is not None
    desk.done(here())
    assert not host.core.at_rest
    assert made(turned(host, said)) == 4 and host.core.at_rest
    host, _, said = begun("generate/m", awaits=True, shows=False)
    assert host.core.at_rest, "it waits for what a prefill makes"
    host.go(Go(LEG, 0, []), 0.0)
    assert not host.core.at_rest
    assert made(turned(host, said)) == 4
    assert HostCore().at_rest
