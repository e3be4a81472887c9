"""`wiremesh up`: what it starts with which words, and how it looks. Its processes are in tests/real."""

import argparse
import base64
import json
import os
import shlex
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from launch import screen, up
from launch.codes import MEANINGS
from launch.flags_up import MESH_FLAGS, UP_HELP, UP_WORDS_HELP, UpFlags
from launch.pen import LINES_MAX, Pen
from launch.screen import Served
from mesh.options import HELP, OptionRefused, add_arguments
from nodes.places import Charge, Place, Show, Stage, Topic

SIGNALS = {9: "SIGKILL"}


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_arguments(parser, UpFlags, UP_HELP, "up")
    add_arguments(parser, only=MESH_FLAGS)
    parser.add_argument("worker_flags", nargs="*", help=UP_WORDS_HELP)
    return parser


# --- What is started -------------------------------------------------------------------------------------


def commands(flags: UpFlags, *words: str) -> dict[str, str]:
    """The words after `python -P -m launch.cli`, by place."""
    places = up.places_of(flags, 8123, words, ("--speedup", "0"), "box-7")
    assert all(place.command[:4] == (sys.executable, "-P", "-m", "launch.cli") for place in places)
    return {place.name: " ".join(place.command[4:]) for place in places}


def test_one_worker_and_one_frontend_by_default() -> None:
    assert commands(UpFlags()) == {
        "worker-1": "worker --name worker-1@box-7 --speedup 0",
        "frontend-1": "frontend --name frontend-1@box-7 --host 127.0.0.1 --port 8123",
    }


def test_each_gets_the_flags_of_the_mesh_and_workers_their_own() -> None:
    flags = UpFlags(model="/m", engine="sim", workers=2, routers=1, frontends=1, host="::1")
    assert commands(flags, "--mesh", "blue") == {
        "worker-1": "worker --name worker-1@box-7 --mesh blue --model /m --engine sim --speedup 0",
        "worker-2": "worker --name worker-2@box-7 --mesh blue --model /m --engine sim --speedup 0",
        "router-1": "router --name router-1@box-7 --mesh blue",
        "frontend-1": "frontend --name frontend-1@box-7 --mesh blue --host ::1 --port 8123",
    }


def router_of(flags: UpFlags, *for_workers: str) -> str:
    """What its command says besides its name."""
    places = up.places_of(flags, 8123, (), for_workers, "box-7")
    return " ".join(next(place for place in places if place.role == "router").command[7:])


def test_every_prompt_goes_to_a_prefill_worker_where_decode_workers_compute_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(up.SPLIT_VARIABLE, raising=False)
    monkeypatch.delenv("WIREMESH_WORKER_ENGINE", raising=False)
    apart = UpFlags(topology="pd")
    assert router_of(apart) == router_of(apart, "--engine", "vllm") == "--disagg-tokens 0"
    assert router_of(UpFlags(topology="pd", engine="sglang")) == "--enforce-disagg"
    assert router_of(apart, "--engine", "sglang") == router_of(apart, "--engine=sglang") == "--enforce-disagg"
    assert router_of(UpFlags(topology="pd", engine="vllm"), "--slots", "8", "--", "--engine", "sglang") != (
        "--enforce-disagg"
    ), "that one is for the engine"
    assert router_of(UpFlags(engine="sglang", routers=1)) == "", "whole requests"
    monkeypatch.setenv("WIREMESH_WORKER_ENGINE", "sglang")
    assert router_of(apart) == "--enforce-disagg" and router_of(UpFlags(topology="pd", engine="vllm")) != (
        "--enforce-disagg"
    )
    monkeypatch.setenv(up.SPLIT_VARIABLE, "100")
    assert router_of(apart) == "--enforce-disagg" and router_of(UpFlags(topology="pd", engine="vllm")) == ""


@pytest.mark.parametrize(
    ("topology", "more", "names"),
    [
        ("agg", {"workers": 2}, "worker-1 worker-2"),
        ("pd", {"decode": 2}, "decode-1 decode-2 prefill-1 router-1"),
        ("epd", {"encoders": 2}, "decode-1 prefill-1 encoder-1 encoder-2 router-1"),
        ("e-pd", {"routers": 0}, "worker-1 encoder-1"),
        ("ep-d", {"prefill": 2, "routers": 2}, "decode-1 prefill-1 prefill-2 router-1 router-2"),
    ],
)
def test_each_shape_has_its_nodes(topology: str, more: dict[str, int], names: str) -> None:
    found = commands(UpFlags(topology=topology, **more))  # type: ignore[arg-type]
    assert " ".join(found) == f"{names} frontend-1"
    for name, words in found.items():
        kind = name.partition("-")[0]
        apart = kind in ("decode", "prefill", "encoder")
        assert words.startswith("worker " if apart else f"{kind} ")
        assert (f"--role {kind}" in words) == apart


def test_what_stands_behind_a_second_pair_of_dashes_is_for_the_engine() -> None:
    words = ("--slots", "3", "--", "--max-num-seqs", "8")
    places = up.places_of(UpFlags(topology="pd", engine="vllm"), 8123, (), words, "box-7")
    found = {place.name: " ".join(place.command[4:]) for place in places}
    ours = "--engine vllm --slots 3 --role"
    assert found["prefill-1"] == f"worker --name prefill-1@box-7 {ours} prefill -- --max-num-seqs 8"
    assert found["decode-1"] == f"worker --name decode-1@box-7 {ours} decode -- --max-num-seqs 8"


def test_only_flags_that_were_given_are_passed_on(parser: argparse.ArgumentParser) -> None:
    given = parser.parse_args(["--mesh", "blue", "--drain-s", "3", "--workers", "2", "--", "--speedup", "0"])
    assert up.mesh_words(given) == ("--mesh", "blue", "--drain-s", "3.0")
    assert given.worker_flags == ["--speedup", "0"]
    assert up.mesh_words(parser.parse_args([])) == ()


def test_flags_of_workers_need_their_dashes(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["--speedup", "0"])
    assert "--speedup" in capsys.readouterr().err


def test_nodes_get_our_environment_without_our_name() -> None:
    passed = up.environment_of({"WIREMESH_NAME": "me", "WIREMESH_WORKER_SLOTS": "3", "PYTHONPATH": "/x"})
    assert passed["WIREMESH_WORKER_SLOTS"] == "3" and "WIREMESH_NAME" not in passed
    assert passed["PYTHONPATH"].endswith(os.pathsep + "/x")


@pytest.mark.parametrize(
    ("host", "environment", "url"),
    [
        ("127.0.0.1", {}, "http://127.0.0.1:80"),
        ("0.0.0.0", {}, "http://127.0.0.1:80"),
        ("::", {}, "http://[::1]:80"),
        ("box", {"WIREMESH_FRONTEND_TLS_CERT": "c.pem"}, "https://box:80"),
    ],
)
def test_the_url(host: str, environment: dict[str, str], url: str) -> None:
    assert up.url_of(host, 80, environment) == url


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"workers": -1}, "--workers is -1"),
        ({"frontends": 1_000}, "--frontends is 1000"),
        ({"workers": 0, "frontends": 0}, "nothing would run"),
        ({"topology": "star"}, "--topology is 'star': it must be one of agg, pd, epd, e-pd, ep-d"),
        ({"prefill": 2}, "--prefill does not belong to --topology agg; it does to --topology pd"),
        ({"topology": "pd", "workers": 2}, "--workers does not belong to --topology pd; it does to --topology agg"),
        ({"port": 65_536}, "--port is 65536"),
    ],
)
def test_flags_that_cannot_be_used(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionRefused, match=said):
        UpFlags(**flags)


def test_each_flag_has_help() -> None:
    assert list(UP_HELP) == list(UpFlags.__struct_fields__)
    assert set(MESH_FLAGS) <= set(HELP)


# --- How it looks ----------------------------------------------------------------------------------------


def test_the_curl_survives_the_shell() -> None:
    words = shlex.split(screen.curl(Served("http://h:1", "it's $HOME", chat=False)))
    assert words[:2] == ["curl", "http://h:1/v1/completions"]
    assert json.loads(words[-1])["model"] == "it's $HOME"


def test_the_curl_of_encrypted_frontends() -> None:
    assert screen.curl(Served("https://h:1", "m")).startswith("curl -k https://h:1/")


@pytest.mark.parametrize(("kind", "name"), [("image", "picture.png"), ("video", "clip.mp4")])
def test_the_curl_for_a_picture_makes_a_file_of_it(kind: str, name: str, tmp_path: Path) -> None:
    answer = json.dumps({"data": [{"b64_json": base64.b64encode(b"pixels").decode()}]})
    played = f"curl() {{ echo '{answer}'; }}; {screen.curl(Served('http://h:1', 'm', paints=kind))}"
    subprocess.run(["bash", "-ec", played], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / name).read_bytes() == b"pixels"


def test_the_announcement() -> None:
    show = Show(Topic.SERVING, "ready for requests 1.2 s after the start", after_s=1.2)
    lines = screen.announce(show, Served("http://127.0.0.1:8000", "demo"))
    assert lines[0].startswith("model 'demo' is served at http://127.0.0.1:8000: ready for")
    assert "'wiremesh chat'" in lines[-1]
    assert "--url http://h:1" in screen.announce(show, Served("http://h:1", "demo"))[-1]
    assert screen.announce(show, None) == [show.text]
    (line,) = screen.announce(show, Served("http://h:1", keyed=True))
    assert line.startswith(f"{show.text} at http://h:1; they need one of your API keys")


def test_lines_of_json() -> None:
    show = Show(Topic.ENDED, "x", "worker-1", pid=3, code=-9, after_s=1.5, again_s=0.25)
    assert json.loads(screen.as_json(show)) == {
        "event": "ended",
        "text": "x",
        "name": "worker-1",
        "pid": 3,
        "code": -9,
        "after_s": 1.5,
        "again_s": 0.25,
    }
    served = json.loads(screen.announce_json(Show(Topic.SERVING, "y"), Served("http://h:1", "m")))
    assert served.keys() == {"event", "text", "url", "model", "curl"}
    assert json.loads(screen.announce_json(Show(Topic.SERVING, "y"), None)) == {"event": "serving", "text": "y"}


def test_what_nodes_say_has_their_name_and_no_power_over_the_terminal() -> None:
    assert screen.plain(Show(Topic.LOG, "a\x1b[2J\tb", "worker-1")) == "worker-1 | a[2J b"
    assert screen.plain(Show(Topic.READY, "worker-1 is ready", "worker-1")) == "worker-1 is ready"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "left"),
        (-9, "was killed by SIGKILL"),
        (-99, "was killed by signal 99"),
        (70, "ended with exit code 70 (a mistake of ours, or an engine that crashed)"),
        (3, "ended with exit code 3"),
    ],
)
def test_ends_in_words(code: int, words: str) -> None:
    assert screen.how_it_ended(code, {key.value: text for key, text in MEANINGS.items()}, SIGNALS) == words


def charge(number: int) -> Charge:
    place = Place(f"worker-{number}", "worker", ())
    return Charge(place, Stage.READY, 4_000 + number, f"{number:016x}", began=10.0, starts=2)


def test_the_table() -> None:
    due = Charge(Place("frontend-1", "frontend", ()))
    loading = Charge(Place("worker-2", "worker", ()), Stage.STARTING, 7, began=15.0, starts=1, steps="half")
    lines = screen.table([charge(1), loading, due], {"worker-1": "3/8 running, 0 waiting"}, 20.0, 200, 50)
    assert lines[0].split() == list(screen.HEADER)
    assert lines[1].split(maxsplit=6)[-1] == "2       3/8 running, 0 waiting"
    assert lines[2].split()[:3] == ["worker-2", "starts", "7"] and lines[2].endswith("half")
    assert lines[3].split() == ["frontend-1", "waits", "-", "-", "-", "0", "-"]


def test_the_table_fits_the_terminal() -> None:
    lines = screen.table([charge(number) for number in range(30)], {}, 20.0, 40, 20)
    assert len(lines) == 10 and max(map(len, lines)) < 40
    assert lines[-1] == "... and 22 more"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (2e5, "2 d")]
)
def test_spans(seconds: float, text: str) -> None:
    assert screen.span(seconds) == text


def test_loads() -> None:
    worker = {
        "load": {"running": 3, "waiting": 1, "blocks_used": 5, "blocks_total": 10},
        "engine": {"slots": 8},
        "running": 1,
    }
    assert screen.load_of(worker) == "3/8 running, 1 waiting, cache 50 % full"
    assert screen.load_of({"in_flight": 2, "requests": 4}) == "2 in flight"
    assert screen.load_of({}) == screen.load_of({"load": 3}) == ""


# --- The pen ---------------------------------------------------------------------------------------------


class Slow(StringIO):
    """A stream whose reader sleeps until it is woken."""

    def __init__(self) -> None:
        super().__init__()
        self.awake, self.waits = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.waits.set()
        assert self.awake.wait(30)
        return super().write(text)


def test_a_slow_reader_costs_lines_of_nodes_and_nothing_else() -> None:
    stream = Slow()
    pen = Pen(stream, lambda: None)
    pen.say("first")
    assert stream.waits.wait(30)
    for number in range(LINES_MAX + 5):
        pen.say(str(number), may_be_lost=True)
    pen.say("important")
    stream.awake.set()
    pen.close()
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["first", "0"] and lines[-3] == str(LINES_MAX - 1)
    assert lines[-2].startswith("(5 lines are left out") and lines[-1] == "important"


def test_lines_go_above_the_block() -> None:
    stream = Slow()
    pen = Pen(stream, lambda: None)
    pen.draw(["NAME", "one"])
    assert stream.waits.wait(30)
    pen.say("news")
    pen.draw(())
    stream.awake.set()
    pen.close()
    assert stream.getvalue() == "NAME\none\n\x1b[2F\x1b[0Jnews\n"
