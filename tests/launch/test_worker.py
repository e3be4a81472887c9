"""The flags of the node commands: every one has a variable and a text, and a mistake is a sentence."""

import argparse
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import fields

from launch import cli, worker
from launch.codes import Exit
from launch.flags_drain import DRAIN_HELP, DrainFlags
from launch.flags_router import ROUTER_HELP, RouterFlags
from launch.flags_worker import WORKER_HELP, WorkerFlags
from mesh.options import OptionRefused, add_arguments, collect
from nodes.folder import ModelRefused

COMMANDS: list[tuple[str, type[Struct], dict[str, str]]] = [
    ("worker", WorkerFlags, WORKER_HELP),
    ("router", RouterFlags, ROUTER_HELP),
    ("drain", DrainFlags, DRAIN_HELP),
]


@pytest.mark.parametrize(("name", "kind", "texts"), COMMANDS)
def test_every_flag_has_a_variable_and_a_text(name: str, kind: type[Struct], texts: dict[str, str]) -> None:
    assert {field.name for field in fields(kind)} == texts.keys()
    parser = argparse.ArgumentParser()
    add_arguments(parser, kind, texts, name)
    shown = " ".join(parser.format_help().split())
    for field in fields(kind):
        assert f"[WIREMESH_{name.upper()}_{field.name.upper()}]" in shown.replace("- ", "-")


def test_variables_are_read_as_flags_are() -> None:
    environment = {
        "WIREMESH_WORKER_ENGINE": "sim",
        "WIREMESH_WORKER_DECODE_MS": "0:20, 100:30",
        "WIREMESH_WORKER_SLOTS": "3",
    }
    flags = collect(WorkerFlags, {"slots": 4}, environment, "worker")
    assert (flags.engine, flags.decode_ms, flags.slots) == ("sim", ("0:20", "100:30"), 4)


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (WorkerFlags, {"queue": -1}, "--queue is -1"),
        (WorkerFlags, {"threads": -1}, "--threads is -1"),
        (WorkerFlags, {"start_s": -1.0}, "--start-s is -1.0: it must be seconds"),
        (WorkerFlags, {"native": ("--a",)}, "--native is for --engine vllm or sglang or trtllm or llama, not numpy"),
        (WorkerFlags, {"engine": "openai"}, "--url is '': it must be the server's OpenAI-compatible URL"),
        (WorkerFlags, {"engine": "openai", "url": "http://x/v1", "role": "decode"}, "is for --role worker, not decode"),
        (WorkerFlags, {"url": "http://x/v1"}, "--url is for --engine openai, not numpy"),
        (WorkerFlags, {"engine": "openai", "url": "http://x", "kv_disk": "/tmp:1"}, "--kv-disk is for --engine numpy"),
        (WorkerFlags, {"engine": "x"}, "--engine is 'x'"),
        (RouterFlags, {"policy": "best"}, "--policy is 'best': it must be one of kv, round-robin, random"),
        (RouterFlags, {"policy": "direct"}, "--policy is 'direct'"),
        (DrainFlags, {"grace_s": -2.0}, "--grace-s is -2.0"),
        (DrainFlags, {"wait_s": float("nan")}, "--wait-s is nan"),
    ],
)
def test_a_mistake_is_a_sentence(kind: type[Struct], values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionRefused) as caught:
        kind(**values)
    assert words in str(caught.value)


@pytest.mark.parametrize(("given", "threads", "found"), [("", 0, "1"), ("6", 0, "6"), ("6", 2, "2")])
def test_threads_are_one_unless_somebody_says_more(
    monkeypatch: pytest.MonkeyPatch, given: str, threads: int, found: str
) -> None:
    for library in worker.LIBRARIES:
        monkeypatch.setenv(library, given) if given else monkeypatch.delenv(library, raising=False)
    worker._set_threads(threads)
    assert [os.environ[library] for library in worker.LIBRARIES] == [found] * 3


def test_a_load_that_takes_long_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(worker, "STILL_S", 0.001)
    said = ""
    with worker._progress("a model"):
        while "so far" not in said:
            said += capsys.readouterr().out
    assert said.startswith("loading: a model\n")
    assert "loading: done in 0." in capsys.readouterr().out


def test_a_load_that_fails_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelRefused), worker._progress("a model"):
        raise ModelRefused("no")
    assert capsys.readouterr().out == "loading: a model\n"


def test_a_folder_that_is_not_there_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="is not there"):
        worker.main(argparse.Namespace(model=str(tmp_path / "x")))


def test_what_hangs_while_it_starts_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker, "STILL_S", 0.001)
    ended, codes = threading.Event(), []
    monkeypatch.setattr(worker.os, "_exit", lambda code: (codes.append(code), ended.set()))
    with worker._progress("a model", 0.0):
        assert ended.wait(10)
    assert codes[0] == Exit.INTERNAL
    assert "wiremesh: the engine has not started within 0 s" in capsys.readouterr().err


def test_what_stands_behind_two_dashes_is_for_the_engine() -> None:
    words = ["worker", "--engine", "vllm", "--native=-O", "--slots", "3", "--", "--max-num-seqs", "8"]
    flags = worker.given(cli._parser().parse_args(words))
    found = collect(WorkerFlags, flags, {}, "worker")
    assert (found.engine, found.slots, found.native) == ("vllm", 3, ("-O", "--max-num-seqs", "8"))
    assert "native" not in worker.given(cli._parser().parse_args(["worker", "--engine", "sim"]))
