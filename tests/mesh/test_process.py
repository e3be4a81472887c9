"""What a process asks of the operating system; with real processes where only those can show it."""

import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.process import (
    disable_core_dumps,
    host_identity,
    new_node_id,
    raise_descriptor_limit,
    spawn,
    wall_clock_ns,
)

ROOT = Path(__file__).resolve().parent.parent.parent
WAIT_S = 10


def start(program: str) -> "subprocess.Popen[str]":
    """A Python process that can import ours and talks through pipes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    return subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )


def is_gone(pid: int) -> bool:
    """Wait for the end of a process that is not our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], WAIT_S)[0])
    finally:
        os.close(descriptor)


PARENT = """
import subprocess, sys
from mesh.process import spawn
child = spawn([sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"], stdout=subprocess.PIPE)
assert child.stdout.readline() == b"up\\n"
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_child_dies_with_a_killed_parent() -> None:
    with start(PARENT) as parent:
        child = int(parent.stdout.readline())  # type: ignore[union-attr]
        assert os.getpgid(child) == child, "a Ctrl-C in the terminal must not reach it"
        parent.kill()
        assert is_gone(child)


def test_a_child_whose_parent_died_first_exits() -> None:
    tether = ROOT / "mesh" / "tether.py"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    child = subprocess.run(
        [sys.executable, str(tether), str(dead.pid), "echo", "alive"], capture_output=True, check=False
    )
    assert (child.returncode, child.stdout) == (128 + signal.SIGKILL, b"")


def test_a_child_is_the_command_itself_and_a_missing_one_is_said() -> None:
    with spawn(["sh", "-c", "echo $$; exit 3"], stdout=subprocess.PIPE) as child:
        assert int(child.stdout.read()) == child.pid  # type: ignore[union-attr]
        assert child.wait() == 3
    with spawn(["no-such-command-here"], stderr=subprocess.PIPE) as child:
        assert b"cannot start no-such-command-here" in child.stderr.read()  # type: ignore[union-attr]
        assert child.wait() == 127


SIGNALLED = """
import asyncio, sys
from mesh.process import on_signals
async def main():
    stop = asyncio.Event()
    say = lambda word: print(word, flush=True)
    on_signals(asyncio.get_running_loop(), lambda: (say("draining"), {first}), lambda: say("now"))
    say("ready")
    await stop.wait()
    print("left", flush=True)
{run}
"""
ASYNCIO = "asyncio.run(main())"
UVLOOP = "import uvloop; uvloop.run(main())"


@pytest.mark.parametrize("run", [ASYNCIO, UVLOOP])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(run: str, number: int) -> None:
    with start(SIGNALLED.format(first="stop.set()", run=run)) as child:
        assert child.stdout.readline() == "ready\n"  # type: ignore[union-attr]
        child.send_signal(number)
        assert child.stdout.read() == "draining\nleft\n"  # type: ignore[union-attr]
        assert child.wait(WAIT_S) == 0


@pytest.mark.parametrize("run", [ASYNCIO, UVLOOP])
@pytest.mark.parametrize("hang", ["None", "[None for _ in iter(int, 1)]"], ids=["waits", "hangs"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_ends_it_even_if_the_loop_hangs(run: str, hang: str, number: int, code: int) -> None:
    with start(SIGNALLED.format(first=hang, run=run)) as child:
        assert child.stdout.readline() == "ready\n"  # type: ignore[union-attr]
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "draining\n"  # type: ignore[union-attr]
        child.send_signal(number)
        assert child.stdout.read() == "now\n"  # type: ignore[union-attr]
        assert child.wait(WAIT_S) == code


WAKES = """
import asyncio, signal
from mesh.process import on_signals
async def main():
    on_signals(asyncio.get_running_loop(), list, list)
    print(signal.set_wakeup_fd(-1) != -1)
{run}
"""


@pytest.mark.parametrize("run", [ASYNCIO, UVLOOP])
def test_a_signal_just_before_the_loop_falls_asleep_wakes_it(run: str) -> None:
    with start(WAKES.format(run=run)) as child:
        assert child.stdout.read() == "True\n"  # type: ignore[union-attr]


def test_limits() -> None:
    files, cores = resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, files[1]), files[1]))
        assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == files[1]
        disable_core_dumps()
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        resource.setrlimit(resource.RLIMIT_CORE, cores)


def test_a_hosts_identity_is_that_of_a_directory_on_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    here = host_identity(str(tmp_path / "a"))
    assert here == host_identity(str(tmp_path / "a"))
    assert here != host_identity(str(tmp_path / "b")) != host_identity()
    program = f"from mesh.process import host_identity; print(host_identity({str(tmp_path / 'a')!r}))"
    with start(program) as other:
        assert other.stdout.read().strip() == here  # type: ignore[union-attr]


def test_names_and_time() -> None:
    names = {new_node_id() for _ in range(100)}
    assert len(names) == 100 and all(0 < name < 2**64 for name in names)
    assert wall_clock_ns() > 1_600_000_000 * 10**9
