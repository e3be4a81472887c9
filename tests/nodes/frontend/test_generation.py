"""The pure core of a request: the same text however tokens are cut, and an end that comes once."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import Abandon, Consumed, Finish
from nodes.contract.engine import Logprobs
from nodes.frontend.choice import Choice
from nodes.frontend.generation import Generation
from nodes.frontend.tally import Tally
from nodes.generation import encode_logprobs
from nodes.openai.chunks import DONE, Chunks
from nodes.openai.demand import Chat, Demand, Kind
from nodes.openai.responses import Answer
from nodes.text.stop import Scanner, Stops
from nodes.text.stream import TextStream
from proto.errors import Reason
from tests.nodes.frontend.fakes import chunks, said
from tests.nodes.text.tiny import byte_level

TOKENIZER = byte_level()


class Stage:
    """A generation with its choices, and what a shell would do for it."""

    def __init__(
        self,
        choices: int = 1,
        stream: bool = True,
        stops: tuple[str, ...] = (),
        logprobs: int = -1,
        chat: Chat | None = None,
    ) -> None:
        kind = Kind.COMPLETION if chat is None else Kind.CHAT
        demand = Demand(
            kind=kind, model="m", stream=stream, logprobs=logprobs, choices=choices, usage=stream, chat=chat
        )
        answer = Answer("cmpl-1", 1, demand)
        self.tally = Tally()
        self.generation = Generation("1", answer, [3], 2, 0.0, self.tally)
        self.dirty: list[Choice] = []
        self.now = 1.0
        self.events: list[bytes] = []
        self.orders: list[Any] = []
        for index in range(choices):
            scanner = Scanner(Stops(stops)) if stops else None
            detokenizer = TOKENIZER.detokenizer()
            text = TextStream(detokenizer, scanner, TOKENIZER.spell if logprobs >= 0 else None)
            writer = Chunks(answer, index) if stream else None
            plain = stream and not stops and logprobs < 0
            touched = self.dirty.append
            self.generation.add(Choice(100 + index, index, 0, text, detokenizer, touched, writer, plain=plain))

    def turn(self) -> None:
        self.now += 0.01
        dirty, self.dirty[:] = self.dirty[:], []
        self.events += self.generation.turn(dirty, self.now)
        self.orders += self.generation.orders
        self.generation.orders = []
        if self.generation.ended:
            self.events += self.generation.complete()

    def text(self) -> str:
        return "".join(said(chunk) for chunk in chunks(b"".join(self.events)))

    def reason(self) -> str:
        found = [chunk["choices"][0]["finish_reason"] for chunk in chunks(b"".join(self.events)) if chunk["choices"]]
        return str(found[-1])


def done(reason: Reason = Reason.LENGTH, position: int = 0, **more: Any) -> Finish:
    return Finish(0, reason, position, nodes=(5,), attempts=1, **more)


CUTS = st.lists(st.integers(1, 4), min_size=60, max_size=60)


@settings(max_examples=60)
@given(st.lists(st.integers(3, 322), max_size=60), CUTS, st.booleans(), st.sampled_from([(), ("e",), ("zz", "lo")]))
def test_the_cuts_make_no_difference(
    tokens: list[int], cuts: list[int], logprobs: bool, stops: tuple[str, ...]
) -> None:
    shown = 1 if logprobs else -1
    whole, cut = Stage(stops=stops, logprobs=shown), Stage(stops=stops, logprobs=shown)
    for stage, sizes in ((whole, [len(tokens) or 1]), (cut, cuts)):
        choice, position = stage.generation.choices[0], 0
        for size in sizes:
            part = tokens[position : position + size]
            rows = [encode_logprobs(Logprobs(-1.0, [(token, -1.0)])) for token in part] if logprobs else []
            if part and choice.finish is None:
                choice.deliver(position, rows, part)
                stage.turn()
            position += size
        choice.end(done())
        stage.turn()
        assert stage.events[-1] == DONE and stage.generation.done
    assert whole.text() == cut.text() and whole.reason() == cut.reason()
    assert whole.generation.counts() == cut.generation.counts()
    if not stops:
        assert whole.text() == TOKENIZER.decode(tokens)


def test_a_stop_string_ends_the_request_of_the_mesh() -> None:
    stage = Stage(stops=("lo",))
    [choice] = stage.generation.choices
    choice.deliver(0, (), TOKENIZER.encode("hello world"))
    stage.turn()
    assert [type(order) for order in stage.orders] == [Abandon] and stage.text() == "hel" and stage.reason() == "stop"
    before = len(stage.events)
    choice.deliver(9, (), [50])
    choice.end(done(Reason.KILLED))
    stage.turn()
    assert len(stage.events) == before, "what comes late is nothing"


@pytest.mark.parametrize("stream", [True, False])
def test_usage_says_where_a_stream_moved_if_it_did(stream: bool) -> None:
    for moved in ((), (3, 5)):
        stage = Stage(choices=2, stream=stream)
        for choice in stage.generation.choices:
            choice.deliver(0, (), [50] * 7)
            choice.end(done(moved_at=moved if choice.index else ()))
        stage.turn()
        told = chunks(b"".join(stage.events))[-1] if stream else msgspec.json.decode(stage.generation.body)
        expected = [{"choice": 1, "position": position} for position in moved]
        assert told["usage"].get("wiremesh") == ({"migrated_at": expected} if moved else None)


def test_reading_is_told_in_steps_of_a_quarter_window() -> None:
    stage = Stage()
    [choice] = stage.generation.choices
    for position in range(8):
        choice.deliver(position, (), [50])
        stage.turn()
    told = [order.position for order in stage.orders if isinstance(order, Consumed)]
    assert told == [2, 4, 6, 8]


@pytest.mark.parametrize("stream", [True, False])
def test_one_choice_that_fails_ends_all(stream: bool) -> None:
    stage = Stage(choices=3, stream=stream)
    first, second, third = stage.generation.choices
    first.deliver(0, (), [50])
    third.end(done())
    second.end(done(Reason.BUSY, retry_ms=250))
    stage.turn()
    assert stage.generation.done and stage.generation.problem is not None
    assert stage.generation.problem.retry_after_s == 0.25
    assert [order.request for order in stage.orders if isinstance(order, Abandon)] == [100]
    assert (b"overloaded" in stage.events[-1]) if stream else not stage.events
    stage.generation.choices[0].deliver(1, (), [50])
    events = len(stage.events)
    stage.turn()
    assert len(stage.events) == events


def test_usage_counts_a_prompt_once_and_the_cache_at_its_best() -> None:
    stage = Stage(choices=2, stream=False)
    for index, choice in enumerate(stage.generation.choices):
        choice.deliver(0, (), [50, 51])
        choice.end(done(cached=index))
    stage.turn()
    assert stage.generation.counts() == (3, 4, 1)


def test_times_are_measured() -> None:
    stage = Stage()
    [choice] = stage.generation.choices
    choice.deliver(0, (), [50])
    stage.turn()
    assert stage.generation.first_s == pytest.approx(1.01)
    choice.deliver(1, (), [50, 51])
    stage.now += 1.0
    stage.turn()
    assert choice.longest_s == pytest.approx(1.01)
    assert stage.tally.token_gap_s.count == 1 and stage.tally.token_gap_s.sum == pytest.approx(0.505)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_choices_of_a_chat_are_opened_in_order_whoever_is_first(first: int) -> None:
    stage = Stage(choices=3, chat=Chat([{"role": "user", "content": "hi"}]))
    stage.generation.choices[first].deliver(0, (), TOKENIZER.encode("hello"))
    stage.turn()
    shown = [chunk["choices"][0] for chunk in chunks(b"".join(stage.events))]
    assert [(choice["index"], choice["delta"].get("role")) for choice in shown[:3]] == [
        (0, "assistant"),
        (1, "assistant"),
        (2, "assistant"),
    ]
    assert {choice["index"] for choice in shown[3:]} == {first}
    assert not any("role" in choice["delta"] for choice in shown[3:])


@pytest.mark.parametrize("leader", ["speaks", "ends", "fails"])
def test_candidates_of_a_prompt_are_asked_for_when_the_first_has_computed_it(leader: str) -> None:
    stage, asked = Stage(choices=3), list[int]()
    for number in (1, 2):
        stage.generation.later(0, lambda number=number: asked.append(number))  # type: ignore[misc]
    first = stage.generation.choices[0]
    assert not asked
    if leader == "speaks":
        first.deliver(0, (), TOKENIZER.encode("a", add_special=False))
    else:
        first.end(done() if leader == "ends" else done(Reason.FAILED, text="no"))
    stage.turn()
    assert asked == ([] if leader == "fails" else [1, 2])
    stage.turn()
    assert len(asked) < 3, "once"
