"""What one owner gets at the end of a turn, and that no frame of it can be refused."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import Leg
from mesh.held import Held, Stretch
from mesh.outgoing import Outgoing
from proto import codec, limits
from proto.basics import Message
from proto.messages import Chunk, End, Offer, Part, Submit


def leg(request: int = 1) -> Held:
    return Held(Leg(9, request, 1), Submit(request, 1, 0, 10**9, "a.b.c"), Offer("a.b.c"), [], inf)


def parts(messages: list[Message]) -> list[Part]:
    """All parts, after a trip over the wire, where every bound is enforced."""
    found = []
    for message in messages:
        frame = codec.encode(1, message)
        assert len(frame) <= limits.FRAME_BYTES_MAX
        decoded = codec.decode(frame)[1]
        if isinstance(decoded, Chunk):
            found += decoded.parts
    return found


def units(found: list[Part], request: int = 1) -> list[int | bytes]:
    """All units of one stream; fails on a gap."""
    got: list[int | bytes] = []
    for part in found:
        if part.request == request:
            assert part.position == len(got)
            got += [*codec.unpack(part.tokens), *(part.items or ())]
    return got


def test_one_part_for_each_stream_however_often_it_produced() -> None:
    outgoing, one, two = Outgoing(), leg(1), leg(2)
    outgoing.add(one, (0, [7], [], None))
    outgoing.add(two, (0, [], [b"a"], None))
    outgoing.add(one, (1, [8, 9], [], None))
    outgoing.add(two, (1, [], [b"b"], b"state"))
    assert outgoing.messages() == [Chunk([Part(1, 1, 0, [7, 8, 9]), Part(2, 1, 0, [], [b"a", b"b"], b"state")])]


def test_nothing_follows_a_checkpoint_in_its_part() -> None:
    outgoing, one = Outgoing(), leg()
    outgoing.add(one, (0, [], [b"a"], b"after a"))
    outgoing.add(one, (1, [], [b"b"], None))
    assert parts(outgoing.messages()) == [Part(1, 1, 0, [], [b"a"], b"after a"), Part(1, 1, 1, [], [b"b"])]


def test_endings_come_last() -> None:
    outgoing, one = Outgoing(), leg()
    outgoing.end(End(1, 1, 1))
    outgoing.add(one, (0, [7], [], None))
    assert [type(message) for message in outgoing.messages()] == [Chunk, End]


def test_nothing_gathered_is_nothing_sent() -> None:
    assert Outgoing().messages() == []


def test_long_lists_are_packed_and_short_ones_are_not() -> None:
    outgoing, one, two = Outgoing(), leg(1), leg(2)
    for position in range(limits.TOKENS_PACKED_MIN):
        outgoing.add(one, (position, [position], [], None))
    outgoing.add(two, (0, [1], [], None))
    assert [type(part.tokens) for part in parts(outgoing.messages())] == [bytes, list]


def test_a_leg_that_is_added_to_after_a_flush_begins_a_new_part() -> None:
    one = leg()
    first, second = Outgoing(), Outgoing()
    first.add(one, (0, [7], [], None))
    first.messages()
    second.add(one, (1, [8], [], None))
    assert second.messages() == [Chunk([Part(1, 1, 1, [8])])]


def test_a_large_batch_is_cut_so_that_a_heartbeat_gets_through() -> None:
    outgoing, item = Outgoing(), b"x" * 10_000
    for request in range(100):
        outgoing.add(leg(request), (0, [], [item], None))
    frames = [codec.encode(1, message) for message in outgoing.messages()]
    assert len(frames) >= 4
    assert max(map(len, frames)) <= limits.CHUNK_BYTES_TARGET + 100


MANY: dict[str, list[Stretch]] = {
    "items of many turns": [(number, [], [b""], None) for number in range(2 * limits.ITEMS_MAX + 1)],
    "items of one turn": [(0, [], [b""] * (2 * limits.ITEMS_MAX + 1), None)],
    "items after items": [(0, [], [b""] * 4_000, None), (4_000, [], [b""] * 4_000, None)],
    "the largest items": [(0, [], [b"x" * limits.ITEM_BYTES_MAX] * 9, b"s" * limits.STATE_BYTES_MAX)],
    "tokens of one turn": [(0, list(range(300_000)), [], None)],
    "more tokens than fit": [(0, [limits.TOKEN_ID_MAX] * (limits.TOKENS_MAX + 5), [], None)],
}


@pytest.mark.parametrize("stretches", MANY.values(), ids=MANY)
def test_no_part_and_no_frame_is_too_large(stretches: list[Stretch]) -> None:
    outgoing, one = Outgoing(), leg()
    for stretch in stretches:
        outgoing.add(one, stretch)
    found = parts(outgoing.messages())
    assert units(found) == [unit for _, tokens, items, _ in stretches for unit in (*tokens, *items)]
    assert found[-1].checkpoint == stretches[-1][3]


def test_more_streams_than_a_chunk_may_hold() -> None:
    outgoing, count = Outgoing(), limits.PARTS_MAX + 1
    for request in range(count):
        outgoing.add(leg(request), (0, [7], [], None))
    assert len(parts(outgoing.messages())) == count


SIZES = st.sampled_from([0, 1, 100, 70_000, 300_000])
STEPS = st.lists(st.tuples(st.integers(1, 3), st.lists(SIZES, max_size=5), st.booleans()), max_size=20)


@given(STEPS)
def test_every_stream_is_whole_and_every_checkpoint_is_in_its_place(steps: list[tuple[int, list[int], bool]]) -> None:
    outgoing = Outgoing()
    legs = {request: leg(request) for request in (1, 2, 3)}
    made: dict[int, list[bytes]] = {1: [], 2: [], 3: []}
    marks: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for request, sizes, checkpoint in steps:
        position = len(made[request])
        items = [b"%d/" % (position + index) + b"x" * size for index, size in enumerate(sizes)]
        made[request] += items
        if checkpoint:
            marks[request].append(len(made[request]))
        if items or checkpoint:
            outgoing.add(legs[request], (position, [], items, b"state" if checkpoint else None))
    found = parts(outgoing.messages())
    for request in legs:
        assert units(found, request) == made[request]
        ours = [part for part in found if part.request == request and part.checkpoint is not None]
        assert [part.position + len(part.items or ()) for part in ours] == marks[request]
