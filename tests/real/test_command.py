"""`wiremesh run`, `call` and `nodes` as real processes on a private mesh of this host."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from launch.codes import Exit
from tests.real.processes import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
COMPONENT = """
import asyncio
from mesh import Component

hello = Component("test.hello")

@hello.endpoint
async def count(request: dict[str, int]):
    for number in range(request["to"]):
        yield {"number": number}
        await asyncio.sleep(request.get("pause_ms", 0) / 1000)

@hello.endpoint
async def fail(request):
    yield "first"
    raise ValueError("bad day")

hello.run()
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def surroundings() -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder and an environment of our own. Its name is short: sockets have short names."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("WIREMESH_", "SLURM_"))}
    with TemporaryDirectory(prefix="wm-") as name:
        Path(name, "hello.py").write_text(COMPONENT)
        yield Path(name), plain | {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": name, "XDG_RUNTIME_DIR": name}


@pytest.fixture(scope="module")
def server(surroundings: tuple[Path, dict[str, str]]) -> Iterator["subprocess.Popen[str]"]:
    folder, environment = surroundings
    command = [sys.executable, "-m", "launch.cli", "run", "hello.py:hello", "--name", "left"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "test.hello is ready" in process.stdout.readline()
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture
def run(surroundings: tuple[Path, dict[str, str]], server: "subprocess.Popen[str]") -> Run:
    folder, environment = surroundings

    def run(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launch.cli", *words]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert "Traceback" not in done.stderr
        return done

    return run


def test_call_prints_items_as_lines(run: Run) -> None:
    done = run("call", "test.hello.count", '{"to": 3}')
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"number":0}\n{"number":1}\n{"number":2}\n', "")


def test_call_reads_the_request_from_stdin(run: Run) -> None:
    assert run("call", "test.hello.count", "-", text='{"to": 1}').stdout == '{"number":0}\n'


@pytest.mark.parametrize(
    ("words", "code", "said", "printed"),
    [
        (("test.hello.fail",), Exit.FAILED, "ValueError: bad day", '"first"\n'),
        (("test.hello.count", '{"to": "x"}'), Exit.FAILED, "test.hello.count", ""),
        (
            ("test.hello.count", '{"to": 9, "pause_ms": 9000}', "--timeout", "2"),
            Exit.FAILED,
            "2 s",
            '{"number":0}\n',
        ),
        (("test.hello.nothing",), Exit.UNAVAILABLE, "test.hello.nothing", ""),
        (("test.hello.count", '{"to": 1}', "--direct", "00000000000000ff"), Exit.UNAVAILABLE, "00000000000000ff", ""),
    ],
)
def test_call_explains_how_it_failed(run: Run, words: tuple[str, ...], code: Exit, said: str, printed: str) -> None:
    done = run("call", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, printed, 1)
    assert said in done.stderr


def test_call_ends_quietly_when_its_reader_goes(run: Run, surroundings: tuple[Path, dict[str, str]]) -> None:
    folder, environment = surroundings
    command = [sys.executable, "-m", "launch.cli", "call", "test.hello.count", '{"to": 100000, "pause_ms": 1}']
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == '{"number":0}\n'
        process.stdout.close()
        assert (process.wait(30), process.stderr.read()) == (Exit.PIPE, "")


def test_call_can_be_interrupted(run: Run, surroundings: tuple[Path, dict[str, str]]) -> None:
    folder, environment = surroundings
    command = [sys.executable, "-m", "launch.cli", "call", "test.hello.count", '{"to": 100000, "pause_ms": 1}']
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == '{"number":0}\n'
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, error) == (Exit.INTERRUPTED, "")


def test_nodes_shows_who_is_there_and_direct_finds_it(run: Run) -> None:
    header, line = run("nodes", "--wait-s", "2").stdout.splitlines()
    assert header.split() == ["NODE", "NAME", "STATE", "RUNNING", "WAITING", "ENDPOINTS"]
    assert line.split()[1:3] == ["left", "up"]
    assert line.split()[-2:] == ["test.hello.count", "test.hello.fail"]
    (node,) = [json.loads(line) for line in run("nodes", "--json", "--wait-s", "2").stdout.splitlines()]
    assert node["node"] == line.split()[0] and node["state"] == "up"
    done = run("call", "test.hello.count", '{"to": 1}', "--direct", node["node"])
    assert (done.returncode, done.stdout) == (0, '{"number":0}\n')


def test_nodes_of_a_mesh_that_nobody_is_in(run: Run) -> None:
    done = run("nodes", "--mesh", "empty", "--wait-s", "0.2")
    assert (done.returncode, done.stdout) == (Exit.UNAVAILABLE, "")
    assert "nobody of mesh 'empty'" in done.stderr
