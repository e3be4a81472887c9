"""Streams of tokens from an engine: whole steps at once, items that belong to tokens, and how they end and move."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import Consumed, Deliver, Finished, Leave, Start, Stepped, Yielded
from proto import limits
from proto.errors import Reason
from proto.messages import Accept, Chunk, Migrate, Part
from tests.mesh.parties import begin, pair, three
from tests.pair import COUNT, Wire

PROMPT = [1, 2, 3]


def tokens_of(wire: Wire, node: int, request: int) -> list[int]:
    """All tokens that a node was given, in order and without a gap."""
    found: list[int] = []
    for deliver in wire.did(node, Deliver):
        if deliver.request == request:
            assert deliver.position == len(found)
            found += deliver.tokens
    return found


def test_a_step_of_many_legs_is_one_message(wire: Wire) -> None:
    client, worker = pair(wire)
    requests = [wire.ask(client, prompt=PROMPT) for _ in range(3)]
    legs = [start.leg for start in wire.did(worker, Start)]
    wire.tell(worker, Stepped([(leg, [7 + number], ()) for number, leg in enumerate(legs)]))
    wire.settle()
    (chunk,) = wire.said(worker, client, Chunk)
    assert [part.tokens for part in chunk.parts] == [[7], [8], [9]]
    assert [tokens_of(wire, client, request) for request in requests] == [[7], [8], [9]]


def test_steps_of_one_turn_are_one_part(wire: Wire) -> None:
    client, worker = pair(wire)
    request = wire.ask(client, prompt=PROMPT)
    leg = wire.leg(worker)
    for token in range(5):
        wire.nodes[worker].handle(Stepped([(leg, [token], ())]), wire.now)
    wire.advance(0.0)
    wire.settle()
    (chunk,) = wire.said(worker, client, Chunk)
    assert chunk.parts == [Part(request, 1, 0, [0, 1, 2, 3, 4])]


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 20), st.booleans())
def test_credit_holds_back_and_nothing_is_lost(sizes: list[int], window: int, noted: bool) -> None:
    wire = Wire()
    client, worker = pair(wire)
    request = wire.ask(client, prompt=PROMPT, window=window)
    leg, made = wire.leg(worker), 0
    for size in sizes:
        tokens = list(range(made, made + size))
        made += size
        wire.tell(worker, Stepped([(leg, tokens, [b"%d" % token for token in tokens] if noted else ())]))
        wire.settle()
        given = len(tokens_of(wire, client, request))
        assert given <= made and wire.nodes[worker].holder.legs[leg].sent <= wire.nodes[worker].holder.legs[leg].limit
        wire.tell(client, Consumed(request, given))
        wire.settle()
    while len(tokens_of(wire, client, request)) < made:
        wire.tell(client, Consumed(request, len(tokens_of(wire, client, request))))
        wire.settle()
    assert tokens_of(wire, client, request) == list(range(made))
    if noted:
        items = [item for deliver in wire.did(client, Deliver) for item in deliver.items]
        assert items == [b"%d" % token for token in range(made)]


def test_a_budget_that_is_used_up_is_an_end_of_its_own(wire: Wire) -> None:
    client, worker = pair(wire)
    request = wire.ask(client, prompt=PROMPT)
    wire.tell(worker, Stepped([(wire.leg(worker), [7], ())]))
    wire.tell(worker, Finished(wire.leg(worker), Reason.LENGTH))
    wire.settle()
    assert wire.reason(client, request) is Reason.LENGTH


def test_what_was_cached_is_told_once(wire: Wire) -> None:
    client, worker = pair(wire)
    request = wire.ask(client, prompt=PROMPT)
    leg = wire.leg(worker)
    wire.tell(worker, Stepped([(leg, [7], ())], [(leg, 2)]))
    wire.settle()
    wire.tell(worker, Stepped([(leg, [8], ())]))
    wire.tell(worker, Finished(leg))
    wire.settle()
    assert [part.cached for chunk in wire.said(worker, client, Chunk) for part in chunk.parts] == [2, 0]
    finish = wire.finished(client, request)
    assert finish is not None and finish.cached == 2


def test_who_waits_is_told_its_place_and_when_it_starts(wire: Wire) -> None:
    client, worker = pair(wire, slots=1)
    requests = [wire.ask(client, prompt=PROMPT) for _ in range(3)]
    assert [accept.waiting for accept in wire.said(worker, client, Accept)] == [0, 1, 2]
    wire.tell(worker, Finished(wire.leg(worker)))
    wire.settle()
    (chunk,) = wire.said(worker, client, Chunk)
    assert chunk.parts == [Part(requests[1], 1, 0)]


def test_a_hand_over_carries_tokens_that_credit_held_back_unless_they_have_items(wire: Wire) -> None:
    for items, kept in (((), 5), ([b"x"] * 5, 2)):
        wire = Wire()
        client, holder, other, request, leg = begin(wire, prompt=PROMPT, window=2)
        wire.tell(holder, Stepped([(leg, [5, 6, 7, 8, 9], items)]))
        wire.settle()
        wire.meet(holder, other)
        wire.tell(holder, Leave(10.0))
        wire.settle()
        wire.tell(holder, Yielded(leg))
        wire.settle()
        (migrate,) = wire.said(holder, client, Migrate)
        assert migrate.resume is not None and migrate.resume.tokens == [5, 6, 7, 8, 9][:kept]
        start = wire.did(other, Start)[0]
        assert (start.position, list(start.tokens)) == (kept, [5, 6, 7, 8, 9][:kept])
        assert tokens_of(wire, client, request) == [5, 6, 7, 8, 9][:kept]


def test_an_engine_that_gives_a_leg_up_moves_it(wire: Wire) -> None:
    client, holder, other, request, leg = begin(wire, prompt=PROMPT)
    wire.tell(holder, Stepped([(leg, [5, 6], ())]))
    wire.tell(holder, Yielded(leg, Reason.PREEMPT))
    wire.settle()
    start = wire.did(other, Start)[0]
    assert (start.position, list(start.tokens)) == (2, [5, 6])
    wire.tell(other, Stepped([(start.leg, [7], ())]))
    wire.tell(other, Finished(start.leg))
    wire.settle()
    assert tokens_of(wire, client, request) == [5, 6, 7] and wire.reason(client, request) is Reason.COMPLETE


def test_items_without_tokens_do_not_continue_tokens(wire: Wire) -> None:
    client, worker = pair(wire)
    request = wire.ask(client, prompt=PROMPT)
    wire.tell(worker, Stepped([(wire.leg(worker), [7], ())]))
    wire.settle()
    wire.forge(worker, client, Chunk([Part(request, 1, 1, [], [b"item"])]))
    wire.settle()
    assert wire.stat(client, "peers.dropped.illegal") == 1


def test_each_token_has_one_item(wire: Wire) -> None:
    client, worker = pair(wire)
    request = wire.ask(client, prompt=PROMPT)
    wire.forge(worker, client, Chunk([Part(request, 1, 0, [7, 8], [b"item"])]))
    wire.settle()
    assert wire.stat(client, "peers.dropped.illegal") == 1


@pytest.mark.parametrize("size", [1, limits.CHUNK_BYTES_TARGET // 5, limits.CHUNK_BYTES_TARGET])
def test_a_step_of_any_size_arrives(wire: Wire, size: int) -> None:
    client, worker = pair(wire)
    request = wire.ask(client, prompt=PROMPT, window=2 * size)
    wire.tell(worker, Stepped([(wire.leg(worker), list(range(size)), ())]))
    wire.settle()
    assert tokens_of(wire, client, request) == list(range(size))


def test_a_wish_that_ends_with_a_slash_stands_for_all_that_begin_so(wire: Wire) -> None:
    from mesh.core import Found, Instances, Want
    from proto.messages import Offer

    client, worker = wire.client(), wire.worker([Offer("generate/a/b", True), Offer("other.endpoint.run")])
    wire.tell(client, Want("generate/"))
    wire.tell(client, Found(wire.nodes[worker].record()))
    wire.settle()
    assert wire.nodes[client].offered("generate/") == {"generate/a/b": (worker,)}
    assert wire.did(client, Instances) == [Instances("generate/a/b", (worker,))]
    wire.crash(worker)
    wire.advance(0.1)
    assert wire.did(client, Instances)[-1] == Instances("generate/a/b", ())


def test_barred_nodes_get_nothing(wire: Wire) -> None:
    client, left, right = three(wire)
    for _ in range(4):
        wire.ask(client, COUNT, barred=(left,))
    assert len(wire.did(right, Start)) == 4 and not wire.did(left, Start)


def test_a_part_that_only_says_it_has_started_needs_no_credit(wire: Wire) -> None:
    """What a Migrate brought beyond the credit was legal; the next holder may have to queue the leg there."""
    client, holder, other, request, leg = begin(wire, prompt=PROMPT, window=2)
    wire.tell(holder, Stepped([(leg, [5, 6, 7, 8, 9], ())]))
    wire.tell(holder, Yielded(leg, Reason.PREEMPT))
    wire.settle()
    (start,) = wire.did(other, Start)
    assert start.position == 5
    wire.forge(other, client, Chunk([Part(request, start.leg.attempt, 5)]))
    wire.settle()
    assert wire.stat(client, "peers.dropped.illegal") == 0 and wire.reason(client, request) is None
