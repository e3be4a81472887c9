"""The owner's core: what each rule of an offer's life means for those who pull."""

from itertools import pairwise

import pytest

from nodes.transfer import limits, wire
from nodes.transfer.causes import Cause
from nodes.transfer.serving import (
    Advanced,
    Cut,
    Drained,
    Effect,
    Event,
    Freed,
    Heard,
    Offered,
    Opened,
    PeerGone,
    Sealed,
    Serving,
    Tell,
    Tick,
    Withdrawn,
)

PLANE = 7
CHUNK = limits.PIECE_BYTES


class Owner:
    """A core, its clock, and the generation of its last offer."""

    def __init__(self) -> None:
        self.core, self.now, self.generation = Serving(PLANE), 0.0, 0

    def tell(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event, self.now)
        self.core.check()
        return effects

    def offer(self, number: int = 1, size: int = 10 * CHUNK, ready: int = -1, pulls: int = 1) -> Opened:
        ready = size if ready < 0 else ready
        (opened,) = self.tell(Offered(number, size, ready, 30.0, pulls))
        assert isinstance(opened, Opened)
        self.generation = opened.generation
        return opened

    def pull(self, pull: int = 1, peer: bytes = b"p", limit: int = 10 * CHUNK, **other: object) -> list[Effect]:
        fields = {"plane": PLANE, "offer": 1, "generation": self.generation, "start": 0, **other}
        return self.tell(Heard(peer, wire.Pull(pull, limit=limit, **fields)))  # type: ignore[arg-type]

    def says(self, message: wire.Asked, peer: bytes = b"p") -> list[Effect]:
        return self.tell(Heard(peer, message))


@pytest.fixture
def owner() -> Owner:
    return Owner()


def refused(effects: list[Effect]) -> Cause:
    (effect,) = effects
    assert isinstance(effect, Tell) and isinstance(effect.message, wire.Refused)
    return Cause.of(effect.message.cause)


def test_pieces_go_out_within_credit_and_readiness(owner: Owner) -> None:
    owner.offer(ready=3 * CHUNK + 5)
    owner.pull(limit=2 * CHUNK)
    starts = [0, CHUNK // 4, CHUNK // 2, CHUNK, 2 * CHUNK]  # the other end writes the first while the next are sent
    assert [(send.start, send.stop) for send in owner.core.pump(9)] == list(pairwise(starts))
    owner.says(wire.Credit(1, 10 * CHUNK, CHUNK))
    assert [(send.start, send.stop) for send in owner.core.pump(9)] == [
        (2 * CHUNK, 3 * CHUNK),
        (3 * CHUNK, 3 * CHUNK + 5),
    ]
    assert not owner.core.busy
    owner.tell(Advanced(1, 10 * CHUNK))
    assert [send.start for send in owner.core.pump(1)] == [3 * CHUNK + 5]


def test_conversations_take_turns(owner: Owner) -> None:
    owner.offer(pulls=0)
    for pull in (1, 2, 3):
        owner.pull(pull)
    assert [send.pull for send in owner.core.pump(7)] == [1, 2, 3, 1, 2, 3, 1]


def test_no_payload_and_no_checksum_means_no_pieces(owner: Owner) -> None:
    owner.offer()
    owner.pull(payload=False)
    assert not owner.core.busy
    owner.pull(2, payload=False, checksum=True)
    assert owner.core.pump(1)[0].checksum


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({"generation": 99}, Cause.STALE),
        ({"offer": 2}, Cause.UNKNOWN_OFFER),
        ({"plane": 8}, Cause.UNKNOWN_OFFER),
        ({"start": 10 * CHUNK + 1}, Cause.STALE),
    ],
)
def test_a_pull_for_something_else_is_refused(owner: Owner, wrong: dict[str, object], cause: Cause) -> None:
    owner.offer()
    assert refused(owner.pull(**wrong)) is cause  # type: ignore[arg-type]


def test_a_generation_is_never_used_twice_in_a_slot(owner: Owner) -> None:
    seen: set[tuple[int, int]] = set()
    for number in range(1, 3 * limits.EXPORTS_MAX, limits.EXPORTS_MAX // 2):
        for offer in range(number, number + limits.EXPORTS_MAX // 2):
            (opened,) = owner.core.handle(Offered(offer, 1, 1, 30.0, 1), 0.0)
            (sealed,) = owner.core.handle(Withdrawn(offer), 0.0)
            assert isinstance(opened, Opened) and isinstance(sealed, Sealed)
            assert opened.slot == sealed.slot and opened.generation % 2 == 0 and sealed.generation % 2 == 1
            for generation in (opened.generation, sealed.generation):
                assert (opened.slot, generation) not in seen
                seen.add((opened.slot, generation))
            owner.core.handle(Drained(offer), 0.0)


def test_an_offer_is_freed_after_its_frames_have_left_and_not_before(owner: Owner) -> None:
    owner.offer()
    owner.pull()
    effects = owner.says(wire.Stop(1, complete=True))
    assert [type(effect) for effect in effects] == [Sealed]
    assert owner.tell(Withdrawn(1)) == [], "it ends once"
    assert owner.tell(Drained(1)) == [Freed(1, Cause.COMPLETE)]
    assert refused(owner.pull(2)) is Cause.UNKNOWN_OFFER


def test_who_still_pulls_when_it_ends_is_told_and_gets_nothing_more(owner: Owner) -> None:
    owner.offer()
    owner.pull()
    owner.tell(Advanced(1, 10 * CHUNK))
    sealed, told = owner.tell(Withdrawn(1))
    assert isinstance(sealed, Sealed) and refused([told]) is Cause.WITHDRAWN
    assert not owner.core.busy and owner.core.pump(4) == []
    assert refused(owner.says(wire.Credit(1, CHUNK, 0))) is Cause.UNKNOWN_OFFER
    assert owner.says(wire.Stop(1)) == []


def test_it_takes_as_many_complete_pulls_as_it_was_offered_for(owner: Owner) -> None:
    owner.offer(pulls=2)
    owner.pull(1)
    assert owner.says(wire.Stop(1, complete=False)) == []
    for pull in (2, 3):
        assert owner.core.offers == 1
        owner.pull(pull)
        effects = owner.says(wire.Stop(pull, complete=True))
    assert isinstance(effects[0], Sealed)


def test_who_has_read_it_directly_says_so_once_and_is_not_answered(owner: Owner) -> None:
    owner.offer(pulls=2)
    said = wire.Fetched(PLANE, 1, owner.generation)
    for wrong in (
        wire.Fetched(PLANE + 1, 1, owner.generation),
        wire.Fetched(PLANE, 2, owner.generation),
        wire.Fetched(PLANE, 1, owner.generation + 2),
    ):
        assert owner.says(wrong) == []
    assert owner.says(said) == []
    assert [type(effect) for effect in owner.says(said)] == [Sealed]
    assert owner.says(said) == [], "it ends once"
    assert owner.tell(Drained(1)) == [Freed(1, Cause.COMPLETE)]


def test_that_all_is_ready_is_said_by_the_first_piece(owner: Owner) -> None:
    owner.offer(pulls=0)
    assert owner.pull(1) == []
    assert [type(effect) for effect in owner.pull(2, payload=False)] == [Tell]
    assert [type(effect) for effect in owner.pull(3, limit=0)] == [Tell]


def test_a_lease_ends_but_not_while_bytes_move_and_not_never(owner: Owner) -> None:
    owner.offer()
    owner.pull()
    moved = 0
    while owner.core.lease_s(1, owner.now):
        owner.now += 1.0
        moved += 1
        owner.says(wire.Credit(1, CHUNK, moved))
        owner.tell(Tick())
    assert owner.now == pytest.approx(30.0 * limits.STRETCH)
    assert owner.tell(Drained(1)) == [Freed(1, Cause.EXPIRED)]


def test_who_is_silent_is_not_served_for_ever(owner: Owner) -> None:
    owner.offer()
    owner.pull()
    owner.now = limits.STALL_S
    owner.tell(Tick())
    assert not owner.core.busy and owner.core.counts["serves.silent"] == 1
    assert owner.core.deadline() == 30.0, "only the lease is left"


def test_a_pulse_is_answered_with_what_is_ready_and_for_how_long(owner: Owner) -> None:
    owner.offer(ready=9)
    owner.pull()
    owner.now = 2.0
    assert owner.says(wire.Credit(1, CHUNK, 0, pulse=True)) == [Tell(b"p", wire.Ready(1, 9, 28_000))]


def test_what_breaks_the_protocol_or_is_gone_is_served_no_more(owner: Owner) -> None:
    owner.offer()
    owner.pull()
    owner.pull(1, peer=b"q")
    assert isinstance(owner.pull()[0], Cut)
    owner.tell(PeerGone(b"p"))
    assert [send.peer for send in owner.core.pump(3)] == [b"q"] * 3


def test_too_many_pulls_at_once_are_told_so(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SERVES_MAX", 1)
    owner.offer()
    owner.pull(1)
    assert refused(owner.pull(2)) is Cause.BUSY
