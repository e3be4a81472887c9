"""The life of a leg: each table by itself, and both together over two ordered channels, exhaustively.

The product is explored with one leg whose owner may stop and kill it at any time, in any order. Two states are over
before the next message is read, and the model says so: a Submit is answered by Accept or Reject at once, and a leg that
has ended answers the Cancels that it owes at once.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.errors import Reason, RemoteError
from proto.messages import HOLDER_MESSAGES, OWNER_MESSAGES, Cancel, Strength
from proto.request import HOLDER, OWNER, Leg, Verb, digest, mix, receive, send, verb
from tests.strategies import smallest

Table = dict[tuple[Leg, Verb], Leg]
TABLES: dict[str, Table] = {"owner": OWNER, "holder": HOLDER}
OWNER_VERBS = (Verb.SUBMIT, Verb.CREDIT, Verb.FED, Verb.STOP, Verb.KILL)
HOLDER_VERBS = tuple(word for word in Verb if word not in OWNER_VERBS)
CELLS = [(name, state, word) for name in TABLES for state in Leg for word in Verb]


# --- One table --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "state", "word"), CELLS)
def test_every_cell(name: str, state: Leg, word: Verb) -> None:
    """A pair is in the table, or it is the peer's fault, or it is our bug."""
    table = TABLES[name]
    if (state, word) in table:
        assert receive(table, state, word) is send(table, state, word) is table[state, word]
        return
    with pytest.raises(RemoteError) as refused:
        receive(table, state, word)
    assert refused.value.reason is Reason.ILLEGAL
    assert word.value in refused.value.text and state.value in refused.value.text
    with pytest.raises(AssertionError):
        send(table, state, word)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_state_is_reached(table: Table) -> None:
    assert reached(table, Leg.NEW) == set(Leg)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("state", Leg)
def test_every_state_can_end(table: Table, state: Leg) -> None:
    assert Leg.CLOSED in reached(table, state)


def reached(table: Table, start: Leg) -> set[Leg]:
    found = {start}
    while True:
        more = {after for (before, _), after in table.items() if before in found} - found
        if not more:
            return found
        found |= more


def test_a_closed_leg_of_the_owner_hears_nothing() -> None:
    """It has left the table of legs by then; what still comes is stale, which is no error."""
    assert not [state for state, _ in OWNER if state is Leg.CLOSED]


def test_every_request_message_is_a_verb() -> None:
    words = {verb(smallest(kind)) for kind in (*OWNER_MESSAGES, *HOLDER_MESSAGES) if kind is not Cancel}
    assert words | {Verb.STOP, Verb.KILL} == set(Verb)
    assert verb(Cancel(1, 1, 0, int(Strength.STOP))) is Verb.STOP
    for strength in (Strength.KILL, 0, 3, 65_535):  # a strength of a newer version is no weaker than a kill
        assert verb(Cancel(1, 1, 0, int(strength))) is Verb.KILL


# --- Both tables --------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """An owner, a holder, and what is under way between them."""

    owner: Leg = Leg.NEW
    holder: Leg = Leg.NEW
    wanted: int = 0  # answers that the owner waits for
    owed: int = 0  # answers that the holder owes
    there: tuple[Verb, ...] = ()  # owner to holder
    back: tuple[Verb, ...] = ()  # holder to owner


IN_FLIGHT_MAX = 3  # messages each way: one more than the longest run of messages that cross each other
BUSY = (Leg.SUBMITTED, Leg.SETTLING)  # the holder answers before it reads on


def owner_says(pair: Pair) -> Iterator[Pair]:
    for word in OWNER_VERBS if len(pair.there) < IN_FLIGHT_MAX else ():
        if (pair.owner, word) in OWNER:
            wanted = pair.wanted + (word in (Verb.STOP, Verb.KILL))
            yield pair._replace(owner=send(OWNER, pair.owner, word), wanted=wanted, there=(*pair.there, word))


def holder_says(pair: Pair) -> Iterator[Pair]:
    for word in HOLDER_VERBS if len(pair.back) < IN_FLIGHT_MAX else ():
        if (pair.holder, word) not in HOLDER:
            continue
        after, owed = send(HOLDER, pair.holder, word), pair.owed
        if word is Verb.CANCELLED:
            assert owed, "an answer to nothing"
            owed -= 1
            after = Leg.SETTLING if owed else after
        yield pair._replace(holder=after, owed=owed, back=(*pair.back, word))


def holder_hears(pair: Pair) -> Iterator[Pair]:
    if pair.there and pair.holder not in BUSY:
        word = pair.there[0]
        owed = pair.owed + (word in (Verb.STOP, Verb.KILL))
        yield pair._replace(holder=receive(HOLDER, pair.holder, word), owed=owed, there=pair.there[1:])


def owner_hears(pair: Pair) -> Iterator[Pair]:
    if pair.back:
        word, wanted = pair.back[0], pair.wanted
        after = receive(OWNER, pair.owner, word)
        if word is Verb.CANCELLED:
            wanted -= 1
            after = Leg.SETTLING if wanted else after
        yield pair._replace(owner=after, wanted=wanted, back=pair.back[1:])


def steps(pair: Pair) -> list[Pair]:
    return [*owner_says(pair), *holder_says(pair), *holder_hears(pair), *owner_hears(pair)]


def explored() -> dict[Pair, list[Pair]]:
    """Every pair that can come to be, and what can follow it. Raises if a message arrives that a table forbids."""
    found: dict[Pair, list[Pair]] = {}
    queue = deque([Pair()])
    while queue:
        pair = queue.popleft()
        if pair not in found:
            found[pair] = steps(pair)
            queue.extend(found[pair])
    return found


@pytest.fixture(scope="module")
def product() -> dict[Pair, list[Pair]]:
    return explored()


def test_no_message_arrives_that_its_receiver_forbids(product: dict[Pair, list[Pair]]) -> None:
    """`explored` raises otherwise; this only makes sure that it went somewhere."""
    assert len(product) > 500
    assert {pair.owner for pair in product} == {pair.holder for pair in product} == set(Leg)


def test_every_cancel_gets_exactly_one_answer(product: dict[Pair, list[Pair]]) -> None:
    """What the owner waits for is under way to the holder, owed by it, or under way back."""
    for pair in product:
        asked = sum(word in (Verb.STOP, Verb.KILL) for word in pair.there)
        assert pair.wanted == asked + pair.owed + pair.back.count(Verb.CANCELLED), pair


def test_an_owner_that_is_done_owes_and_is_owed_nothing(product: dict[Pair, list[Pair]]) -> None:
    for pair in product:
        if pair.owner is Leg.CLOSED:
            assert pair.wanted == 0 and not pair.back, pair
            assert all(word in (Verb.CREDIT, Verb.FED) for word in pair.there), pair


def test_a_pair_at_rest_is_closed_on_both_sides(product: dict[Pair, list[Pair]]) -> None:
    ends = [pair for pair, after in product.items() if not after]
    assert ends == [Pair(Leg.CLOSED, Leg.CLOSED)]


def test_from_everywhere_the_end_can_be_reached(product: dict[Pair, list[Pair]]) -> None:
    before: dict[Pair, list[Pair]] = {}
    for pair, following in product.items():
        for after in following:
            before.setdefault(after, []).append(pair)
    finishing = {Pair(Leg.CLOSED, Leg.CLOSED)}
    queue = deque(finishing)
    while queue:
        for pair in before.get(queue.popleft(), ()):
            if pair not in finishing:
                finishing.add(pair)
                queue.append(pair)
    assert finishing == set(product)


@pytest.mark.parametrize(
    ("table", "cell"),
    [(OWNER, cell) for cell in OWNER if cell[1] in HOLDER_VERBS and cell != (Leg.STOPPING, Verb.CANCELLED)]
    + [(HOLDER, cell) for cell in HOLDER if cell[1] in OWNER_VERBS],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_each_row_is_needed(table: Table, cell: tuple[Leg, Verb], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any one row of what may be heard, some order of events is an error, or the row serves what is listed."""
    monkeypatch.delitem(table, cell)
    if cell in BEYOND_THE_MODEL:
        explored()
    else:
        with pytest.raises(RemoteError):
            explored()


BEYOND_THE_MODEL = {
    (Leg.KILLING, Verb.CREDIT),  # credit is gathered during a turn, and leaves after a kill of the same turn
    (Leg.NEW, Verb.STOP),  # a cancel that overtook its request came on another session, or was sent to a stale leg
    (Leg.NEW, Verb.KILL),
    (Leg.NEW, Verb.CREDIT),
    (Leg.CLOSED, Verb.SUBMIT),
    (Leg.STOPPING, Verb.STOP),  # our owner asks once; another implementation may ask again
    (Leg.KILLING, Verb.STOP),
    (Leg.KILLING, Verb.KILL),
}


# --- Digests ------------------------------------------------------------------------------------------

LEGS = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 65_535)), unique=True)


@given(LEGS)
def test_a_digest_knows_no_order(legs: list[tuple[int, int]]) -> None:
    assert digest(legs) == digest(sorted(legs)) == digest(reversed(legs))


@given(LEGS)
def test_a_digest_is_undone_by_what_made_it(legs: list[tuple[int, int]]) -> None:
    assert digest([*legs, *legs]) == 0
    assert all(0 <= mix(*leg) < 2**64 for leg in legs)


def test_close_names_have_far_digests() -> None:
    values = {mix(request, attempt) for request in range(200) for attempt in range(1, 50)}
    assert len(values) == 200 * 49


GAMMA = 0x9E3779B97F4A7C15
SPLITMIX64_OF_SEED_0 = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)  # published with the algorithm


@pytest.mark.parametrize("number", range(3))
def test_a_mix_is_the_published_one(number: int) -> None:
    """Other implementations must agree, so it is a function that they can look up."""
    state = number * GAMMA % 2**64
    assert mix(state >> 16, state & 0xFFFF) == SPLITMIX64_OF_SEED_0[number]
