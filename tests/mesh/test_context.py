"""A context passes its end on, wakes who waits for it, and forgets what has ended."""

import asyncio

import pytest

from mesh.context import Context


class Recorder:
    """Something linked to a context."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def stop(self) -> None:
        self.heard.append("stop")

    def kill(self) -> None:
        self.heard.append("kill")


def test_a_stop_and_then_a_kill_are_passed_on_once() -> None:
    context, recorder = Context(), Recorder()
    context.link(recorder)
    context.stop()
    context.stop()
    assert (context.stopped, context.killed, recorder.heard) == (True, False, ["stop"])
    context.kill()
    context.kill()
    context.stop()
    assert (context.killed, recorder.heard) == (True, ["stop", "kill"])


def test_a_kill_is_a_stop_too() -> None:
    context = Context()
    context.kill()
    assert context.stopped and context.killed


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_is_linked_after_the_end_hears_of_it_at_once(how: str) -> None:
    context, recorder = Context(), Recorder()
    getattr(context, how)()
    context.link(recorder)
    assert recorder.heard == [how]


def test_what_has_ended_is_not_told() -> None:
    context, recorder = Context(), Recorder()
    context.link(recorder)
    context.unlink(recorder)
    context.unlink(recorder)
    context.stop()
    assert recorder.heard == []


def test_a_child_ends_with_its_parent_and_alone() -> None:
    parent = Context(metadata={"a": "1"}, trace="t", id="x", request=3, attempt=2, deadline=5.0)
    first, second = parent.child(), parent.child()
    assert (first.metadata, first.trace, first.id, first.request, first.deadline) == ({"a": "1"}, "t", "x", 3, 5.0)
    first.kill()
    assert not parent.stopped and not second.stopped
    parent.stop()
    assert second.stopped and not second.killed
    assert not parent.detached().stopped, "a detached one goes its own way"


def test_metadata_of_a_child_is_its_own() -> None:
    parent = Context(metadata={"a": "1"})
    parent.child().metadata["b"] = "2"
    assert parent.metadata == {"a": "1"}


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_everybody_who_waits_is_woken(how: str) -> None:
    async def run() -> None:
        context = Context()
        waiting = [asyncio.ensure_future(context.until_stopped()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        getattr(context, how)()
        async with asyncio.timeout(20):
            await asyncio.gather(*waiting[1:])
            await context.until_stopped()
        assert waiting[0].cancelled()

    asyncio.run(run())


def test_time_runs_out_and_never_below_zero() -> None:
    async def run() -> None:
        now = asyncio.get_running_loop().time()
        assert Context().remaining_s is None
        assert 9 < (Context(timeout_s=10).remaining_s or 0) <= 10
        assert Context(deadline=now - 1).remaining_s == 0

    asyncio.run(run())


def test_a_context_of_no_mesh_has_no_clients() -> None:
    with pytest.raises(RuntimeError, match="belongs to no mesh"):
        Context().client("a.b.c")
