"""Handing over by an engine's own connector: what the mesh carries unread, and who is told which token."""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import pytest

from mesh.core import Event, Failed, Finished, Go, Halt, Leg, Prepared, Start, Stepped, Yielded
from nodes import generation, parcels
from nodes.commands import Applied, Cancel
from nodes.contract.engine import Ending, Job, Output, Step
from nodes.contract.media import Media, Spot
from nodes.generation import Generation
from nodes.host_core import HostCore
from nodes.native import AFTER, BESIDE, Native
from nodes.transfer.handle import Handle
from nodes.transfer.pieces import pack
from proto.errors import Reason
from proto.limits import HANDLE_BYTES_MAX

MARK = "vllm 0123"
PROMPT = [*range(40, 60)]
LEG = Leg(7, 1, 2)


def core_of(mode: str, enforce: bool = False) -> HostCore:
    core = HostCore(200, enforce=enforce)
    core.native.mode, core.native.mark = mode, MARK
    return core


def start_of(
    endpoint: str, handles: Any = (), awaits: bool = False, generated: Any = (), media: tuple[Spot, ...] = ()
) -> Start:
    payload = generation.encode(Generation(max_tokens=8, ignore_eos=True, media=media))
    parts = (LEG, endpoint, payload, PROMPT, len(generated), [*generated], b"", inf, "", {})
    return Start(*parts, handles=handles, awaits=awaits)


def parcel(native: bytes = b"where", mark: str = MARK) -> bytes:
    return Native(AFTER, mark).packed(native, len(PROMPT))


def told(events: list[Event]) -> list[int]:
    """The tokens in these events."""
    return [token for event in events if isinstance(event, Stepped) for _, tokens, _ in event.made for token in tokens]


def test_a_prefill_says_with_its_end_where_its_cache_lies() -> None:
    core = core_of(AFTER)
    assert core.start(start_of("prefill/x"), 0.0) == []
    (job,) = core.commands
    assert isinstance(job, Job) and job.feeds and job.max_tokens == 1
    events = core.stepped(Step([Output(LEG, [50], ending=Ending.LENGTH, native=b"where")]), 0.0)
    assert [type(event) for event in events] == [Stepped, Prepared, Finished], "in this order: the next leg may begin"
    (prepared,) = [event for event in events if isinstance(event, Prepared)]
    found = parcels.decode(prepared.handle)
    assert (found.kind, found.digest, found.count, found.native) == (parcels.NATIVE, MARK, len(PROMPT), b"where")
    core.check()


def test_who_goes_on_after_waits_for_its_tokens() -> None:
    core = core_of(AFTER)
    core.start(start_of("generate/x", [parcel()], awaits=True), 0.0)
    assert not core.commands, "the engine does not have it before Go"
    core.go(Go(LEG, 0, [50]), 0.0)
    (job,) = core.commands
    assert isinstance(job, Job) and (job.native, job.generated, job.feeds) == (b"where", [50], False)
    assert told(core.stepped(Step([Output(LEG, [51])]), 0.0)) == [51]


def test_who_goes_on_at_once_has_what_was_said() -> None:
    """The prefill is over: its tokens came with the leg."""
    core = core_of(AFTER)
    core.start(start_of("generate/x", [parcel()], generated=[50]), 0.0)
    (job,) = core.commands
    assert isinstance(job, Job) and (job.native, list(job.generated)) == (b"where", [50])


class Desk:
    """Where pictures are read: when a test says so."""

    def __init__(self) -> None:
        self.handles: dict[Leg, Any] = {}

    def embed(self, leg: Leg, spots: Any, handles: Any, done: Any) -> None:
        self.handles[leg] = handles

    def forget(self, leg: Leg) -> None:
        del self.handles[leg]

    def lay_out(self, media: Any) -> Any:
        return WHERE, b"".join(one.content for one in media)


WHERE = Handle(1, 2, 3, 4, 5, 24, 24, 7, "here", [], pack([(0, 24)]))
SPOT = Spot("image", 4, 3, bytes(16))
SEEN = [Media(4, 3, bytes(16), "rows")]


@pytest.mark.parametrize("first", ["read", "go"])
def test_who_goes_on_has_what_its_pictures_became(first: str) -> None:
    """Its engine may have to compute the prompt after all: it has both, whichever comes first, and nothing before."""
    core = core_of(AFTER)
    core.desk = desk = Desk()
    core.start(start_of("generate/x", [parcel()], awaits=True, media=(SPOT,)), 0.0)
    assert [*desk.handles] == [LEG], "they are read while the prompt is computed"
    doings: list[Callable[[], Any]] = [partial(core.embedded, LEG, SEEN), partial(core.go, Go(LEG, 0, [50]), 0.0)]
    for do in doings if first == "read" else doings[::-1]:
        assert not core.commands
        do()
    (job,) = core.commands
    assert isinstance(job, Job) and (job.native, job.generated, job.media) == (b"where", [50], SEEN)
    assert told(core.stepped(Step([Output(LEG, [51])]), 0.0)) == [51]
    core.check()


def test_a_prefill_hands_over_what_its_pictures_became() -> None:
    """Who goes on need not look again."""
    core = core_of(AFTER)
    core.desk = Desk()
    core.start(start_of("prefill/x", media=(SPOT,)), 0.0)
    core.embedded(LEG, SEEN)
    events = core.stepped(Step([Output(LEG, [50], ending=Ending.LENGTH, native=b"where")]), 0.0)
    (prepared,) = [event for event in events if isinstance(event, Prepared)]
    found = parcels.decode(prepared.handle)
    assert (found.native, found.handle, found.content) == (b"where", WHERE, SPOT.content)
    core.check()


@pytest.mark.parametrize("awaits", [False, True])
def test_pictures_that_cannot_be_read_end_it_before_its_engine_hears_of_it(awaits: bool) -> None:
    core = core_of(AFTER)
    core.desk = Desk()
    core.start(start_of("generate/x", [parcel()], awaits=awaits, media=(SPOT,)), 0.0)
    failed = Failed(LEG, Reason.INVALID, text="it is none")
    assert core.embedded(LEG, failed) == [failed] and not core.runs
    core.go(Go(LEG, 0, [50]), 0.0)
    assert not core.commands
    core.check()


def test_beside_it_has_its_pictures_before_it_begins() -> None:
    core = core_of(BESIDE)
    core.desk = Desk()
    core.start(start_of("generate/x", [parcel()], awaits=True, media=(SPOT,)), 0.0)
    assert not core.commands
    core.embedded(LEG, SEEN)
    (job,) = core.commands
    assert isinstance(job, Job) and (job.native, job.media) == (b"where", SEEN)
    assert told(core.stepped(Step([Output(LEG, [50])]), 0.0)) == []


def test_cancelled_while_it_waits_the_engine_never_hears_of_it() -> None:
    core = core_of(AFTER)
    core.start(start_of("generate/x", [parcel()], awaits=True), 0.0)
    (yielded,) = core.halt(Halt(LEG), 1.0)
    assert isinstance(yielded, Yielded) and not core.commands and not core.runs
    core.go(Go(LEG, 0, [50]), 1.0)
    assert not core.commands
    core.check()


@pytest.mark.parametrize("handle", [b"nonsense", parcel(mark="vllm 4567"), parcel(mark="sglang 0123")])
def test_what_another_engine_or_model_said_is_left_alone(handle: bytes) -> None:
    core = core_of(AFTER)
    core.start(start_of("generate/x", [handle]), 0.0)
    (job,) = core.commands
    assert isinstance(job, Job) and job.native == b""
    assert core.handing.counts["foreign"] == 1 and core.handing.counts["pulled"] == 0


def test_unfed_it_is_refused_where_it_may_not_compute() -> None:
    core = core_of(AFTER, enforce=True)
    (failed,) = core.start(start_of("generate/x"), 0.0)
    assert isinstance(failed, Failed) and failed.reason is Reason.UNAVAILABLE
    assert core.start(start_of("generate/x", [parcel()]), 0.0) == [] and len(core.commands) == 1
    core.check()


def test_too_much_for_a_message_is_not_said() -> None:
    assert len(parcel(bytes(parcels.NATIVE_BYTES_MAX))) <= HANDLE_BYTES_MAX
    core = core_of(AFTER)
    core.start(start_of("prefill/x"), 0.0)
    large = bytes(parcels.NATIVE_BYTES_MAX + 1)
    events = core.stepped(Step([Output(LEG, [50], ending=Ending.LENGTH, native=large)]), 0.0)
    assert [type(event) for event in events] == [Stepped, Finished]
    assert core.handing.counts["no_room"] == 1


def test_a_cancelled_prefill_says_nothing() -> None:
    core = core_of(AFTER)
    core.start(start_of("prefill/x"), 0.0)
    core.halt(Halt(LEG), 0.0)
    events = core.stepped(Step([Output(LEG, [50], native=b"where")]), 0.0)
    assert not any(isinstance(event, Prepared) for event in events)


# --- Both at once ------------------------------------------------------------------------------------------


def beside() -> tuple[HostCore, list[Event]]:
    """A decode leg whose engine runs while the prompt is computed elsewhere; and what the core says by itself."""
    core, said = core_of(BESIDE), list[Event]()
    core.wake = said.extend
    core.start(start_of("generate/x", [parcel(b"room 5")], awaits=True), 0.0)
    (job,) = core.commands
    assert isinstance(job, Job) and job.native == b"room 5"
    core.commands.clear()
    return core, said


def test_a_prefill_beside_says_at_once_where_to_meet() -> None:
    core = core_of(BESIDE)
    core.start(start_of("prefill/x"), 0.0)
    events = core.stepped(Step([Output(LEG, native=b"room 5")]), 0.0)
    assert [type(event) for event in events] == [Stepped, Prepared]
    events = core.stepped(Step([Output(LEG, [50], ending=Ending.LENGTH)]), 0.0)
    assert [type(event) for event in events] == [Stepped, Finished]


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_beside_nothing_is_told_before_go_nor_twice(before: int) -> None:
    core, said = beside()
    tokens = [50, 51, 52, 53]
    for token in tokens[:before]:
        assert told(core.stepped(Step([Output(LEG, [token])]), 0.0)) == []
    core.go(Go(LEG, 0, [50]), 0.0)
    for token in tokens[before:]:
        said += core.stepped(Step([Output(LEG, [token])]), 0.0)
    said += core.stepped(Step([Output(LEG, ending=Ending.LENGTH)]), 0.0)
    assert told(said) == [51, 52, 53] and isinstance(said[-1], Finished)
    assert not core.native.early
    core.check()


def test_beside_an_end_waits_for_go_too() -> None:
    core, said = beside()
    assert told(core.stepped(Step([Output(LEG, [50, 51], ending=Ending.STOP)]), 0.0)) == []
    assert not said and LEG in core.runs
    core.go(Go(LEG, 0, [50]), 0.0)
    assert told(said) == [51] and isinstance(said[-1], Finished) and not core.runs
    core.check()


def test_beside_another_token_than_was_told_moves_it() -> None:
    core, _ = beside()
    core.go(Go(LEG, 0, [50]), 0.0)
    assert told(core.stepped(Step([Output(LEG, [60, 61])]), 0.0)) == []
    (cancel,) = core.commands
    assert isinstance(cancel, Cancel)
    run = core.runs[LEG]
    assert run.failed is not None and run.failed.retryable
    core.check()


def test_beside_a_cancel_forgets_what_was_kept() -> None:
    core, said = beside()
    core.stepped(Step([Output(LEG, [50])]), 0.0)
    core.halt(Halt(LEG), 0.0)
    core.applied(Applied(freed=[(LEG, 0)]), 0.0)
    assert not core.native.early and not core.runs
    core.go(Go(LEG, 0, [50]), 0.0)
    assert not said
    core.check()
