"""`wiremesh up` with real nodes: from nothing to an answer, through deaths, to a clean end."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launch.codes import Exit
from tests.nodes.test_loading import model_folder
from tests.real.processes import PATIENCE_S, Child
from tests.real.test_supervised import alive, gone

PACED = ("--", "--decode-ms", "0:5", "--prefill-ms", "0:5")


@pytest.fixture
def model(tmp_path: Path, runtime: str) -> Path:
    return model_folder(tmp_path / "tiny")


@contextmanager
def started(model: Path, *words: object) -> Iterator[Child]:
    command = ("up", "--model", model, "--engine", "sim", "--port", 0, "--json", "--drain-s", 10)
    with Child("-m", "launch.cli", *command, *words) as child:
        yield child


def event(child: Child, topic: str, name: str = "") -> dict[str, Any]:
    """The first event of a kind, waited for."""
    text = f"{name} is ready" if topic == "ready" else f"{name} was" if name else ""
    return dict(json.loads(child.line(f'"event":"{topic}","text":"{text}')))


@contextmanager
def chatting(url: str) -> Iterator[Child]:
    """A chat whose answer has begun and takes more than a second."""
    with Child("-m", "launch.cli", "chat", "--url", url, "--max-tokens", 300, "hello") as chat:
        end = time.monotonic() + PATIENCE_S
        while not chat.text:
            assert chat._read(end - time.monotonic()), "no answer"
        yield chat


def test_from_nothing_to_an_answer_through_a_death_to_a_clean_end(model: Path) -> None:
    with started(model, "--workers", 2, "--routers", 1, "--frontends", 2, *PACED) as child:
        served = event(child, "serving")
        assert served["model"] == "tiny"
        for _ in range(5):  # Each connection meets one of the two frontends.
            done = subprocess.run(["bash", "-c", f"{served['curl']} -sf"], capture_output=True, text=True, check=True)
            assert json.loads(done.stdout)["choices"][0]["message"]["content"]

        with Child("-m", "launch.cli", "nodes") as nodes:  # In the same mesh, without a flag.
            assert nodes.wait() == 0
            assert nodes.text.count("worker-") == 2 and nodes.text.count("frontend-") == 2
            assert "router-1@" in nodes.text

        pid = event(child, "ready", "worker-1")["pid"]
        with chatting(served["url"]) as chat:
            os.kill(pid, signal.SIGKILL)
            assert chat.wait() == 0, chat.text
        assert "killed by SIGKILL" in event(child, "ended", "worker-1")["text"]

        child.signal(signal.SIGINT)
        assert child.wait() == 0
        assert json.loads(child.text.splitlines()[-1])["text"] == "all nodes have left"


def test_what_runs_may_finish_when_it_is_stopped(model: Path) -> None:
    with started(model, *PACED) as child:
        served = event(child, "serving")
        with chatting(served["url"]) as chat:
            child.signal(signal.SIGTERM)
            assert chat.wait() == 0, chat.text
        assert child.wait() == 0
        assert '"killed"' not in child.text


def test_all_nodes_die_with_it(model: Path) -> None:
    with started(model) as child:
        event(child, "serving")
        pids = [event(child, "ready", name)["pid"] for name in ("worker-1", "frontend-1")]
        assert all(map(alive, pids))
        child.signal(signal.SIGKILL)
        assert gone(*pids)


def test_a_model_that_is_not_there(model: Path) -> None:
    with started(model / "nowhere") as child:
        assert child.wait(PATIENCE_S) == Exit.SETTING
        given_up = event(child, "given-up")
        assert "worker-1 never became ready: ended with exit code 78" in given_up["text"]
        assert str(model / "nowhere") in given_up["text"]


def test_flags_after_two_dashes_are_for_the_workers(model: Path) -> None:
    with started(model, "--", "--slots", "x") as child:
        assert child.wait(PATIENCE_S) == Exit.USAGE
        assert "--slots" in event(child, "given-up")["text"]


def test_a_port_that_somebody_has(model: Path) -> None:
    with started(model) as first:
        port = event(first, "serving")["url"].rpartition(":")[2]
        with started(model, "--port", port) as second:
            assert second.wait() == Exit.UNAVAILABLE
            assert second.text.startswith(f"wiremesh: port {port} of '127.0.0.1' cannot be used")
            assert second.text.count("\n") == 1


def test_logs_as_json_stay_json(model: Path) -> None:
    with started(model, "--log-format", "json") as child:
        event(child, "serving")
        child.line('"wiremesh.request"')
        child.signal(signal.SIGTERM)
        assert child.wait() == 0
        assert all(json.loads(line) for line in child.text.splitlines())
