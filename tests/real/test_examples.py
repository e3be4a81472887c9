"""The examples, as real processes: what their READMEs promise."""

import signal
import time
from contextlib import ExitStack

import pytest

from tests.real.processes import PATIENCE_S, ROOT, Child

EXAMPLES = ROOT / "launch" / "examples"


def start(stack: ExitStack, name: str, *words: object) -> Child:
    """Start a script of an example; servers are waited for."""
    child = stack.enter_context(Child(EXAMPLES / name, *words))
    if not name.endswith("client.py"):
        child.line("is ready: node ")
    return child


def test_hello_world(runtime: str) -> None:
    with ExitStack() as stack:
        server = start(stack, "hello_world/server.py")
        assert "serves demo.hello.generate; directory " in server.line("is ready")
        client = start(stack, "hello_world/client.py", "Ada", "Grace")
        assert (client.wait(), client.text) == (0, "Hello Ada!\nHello Grace!\n")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_hello_world_from_the_command_line(runtime: str) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(
            Child("-m", "launch.cli", "run", EXAMPLES / "hello_world/server.py:hello", "--name", "greeter")
        )
        assert "(greeter)" in server.line("is ready")
        call = ("-m", "launch.cli", "call", "demo.hello.generate")
        good = stack.enter_context(Child(*call, '{"names": ["Ada"]}'))
        assert (good.wait(), good.text) == (0, '"Hello Ada!"\n')
        bad = stack.enter_context(Child(*call, '{"names": [1]}'))
        assert bad.wait() == 1
        assert "Expected `str`, got `int` - at `$.names[0]`" in bad.text
        nodes = stack.enter_context(Child("-m", "launch.cli", "nodes", "--wait-s", "0.5"))
        assert nodes.wait() == 0
        assert "greeter" in nodes.text and "demo.hello.generate" in nodes.text


@pytest.mark.parametrize(
    ("how", "client_says", "server_says"),
    [
        ("stop", "ended cleanly after 3", "stopped at 3"),
        ("kill", "killed after 3", "killed at 3"),
        ("leave", "ended cleanly after 3", "killed at 3"),
        ("deadline", "out of time after", "killed at"),
    ],
)
def test_cancellation_reaches_the_end_of_the_chain(runtime: str, how: str, client_says: str, server_says: str) -> None:
    with ExitStack() as stack:
        server = start(stack, "cancellation/server.py")
        start(stack, "cancellation/middle.py")
        client = start(stack, "cancellation/client.py", how)
        assert client.wait() == 0
        assert client.text.startswith("2\n4\n6\n") and client_says in client.text
        server.line(server_says)


def test_a_client_that_dies_is_a_kill(runtime: str) -> None:
    with ExitStack() as stack:
        server = start(stack, "cancellation/server.py")
        start(stack, "cancellation/middle.py")
        client = start(stack, "cancellation/client.py", "never")
        client.line("6")
        client.kill()
        server.line("killed at")


def test_resumable_loses_nothing_when_its_server_is_killed(runtime: str) -> None:
    with ExitStack() as stack:
        servers = [start(stack, "resumable/server.py") for _ in range(2)]
        client = start(stack, "resumable/client.py", 300)
        client.line("50 items")
        running = [server for server in servers if _has_begun(server)]
        assert len(running) == 1
        running[0].kill()
        assert client.wait() == 0
        assert "all 300 items, each once, from 2 instances" in client.text
        (other,) = [server for server in servers if server is not running[0]]
        begun = int(other.line("begins at").split()[-1])
        assert begun >= 50 and begun % 5 == 0, "it went on from a checkpoint"
        other.signal(signal.SIGTERM)
        assert other.wait() == 0


def test_a_drained_server_hands_its_stream_over_and_exits(runtime: str) -> None:
    with ExitStack() as stack:
        servers = [start(stack, "resumable/server.py") for _ in range(2)]
        client = start(stack, "resumable/client.py", 300)
        client.line("50 items")
        (running,) = [server for server in servers if _has_begun(server)]
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert client.wait() == 0
        assert "all 300 items, each once, from 2 instances" in client.text


def test_a_second_signal_exits_at_once(runtime: str) -> None:
    with ExitStack() as stack:
        server = start(stack, "cancellation/server.py")
        start(stack, "cancellation/middle.py")
        client = start(stack, "cancellation/client.py", "never")
        client.line("6")
        server.signal(signal.SIGTERM)
        with pytest.raises(AssertionError, match="it still runs"):
            server.wait(timeout_s=0.5)
        assert ended_by_signals(server) == 128 + signal.SIGTERM


def ended_by_signals(server: Child) -> int:
    """The exit code. Two signals that come before a process runs again are one."""
    end = time.monotonic() + PATIENCE_S
    while True:
        server.signal(signal.SIGTERM)
        try:
            return server.wait(timeout_s=0.2)
        except AssertionError:
            assert time.monotonic() < end


def _has_begun(server: Child) -> bool:
    try:
        return bool(server.line("begins at 0", timeout_s=0.1))
    except AssertionError:
        return False
