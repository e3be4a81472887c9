"""The command line: quick, one sentence for every mistake, the exit codes that --help lists."""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch import VERSION, cli, codes, collision, flags
from launch.codes import MEANINGS, Complaint, Exit
from mesh.placement import POLICIES

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process; returns its code and what it printed."""
    for name in list(os.environ):
        if name.startswith("WIREMESH_"):
            monkeypatch.delenv(name)

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as end:  # argparse leaves this way.
            code = int(end.code or 0)
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return code, out, error

    return run


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Write modules into a folder that is the current one, and forget them afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = []

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        importlib.invalidate_caches()
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


# --- Help and usage -------------------------------------------------------------------------------------


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"wiremesh {VERSION}\n", "")


def test_help_lists_commands_and_exit_codes(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in ("keygen", "run", "call", "nodes", "sim"))
    assert all(f"{number.value}  {text}" in out for number, text in MEANINGS.items())


def test_every_exit_code_is_explained() -> None:
    assert set(MEANINGS) == set(Exit)


@pytest.mark.parametrize("words", [(), ("dance",), ("run",), ("call",), ("nodes", "--colour")])
def test_usage(run: Run, words: tuple[str, ...]) -> None:
    code, _, error = run(*words)
    assert code == Exit.USAGE
    assert "usage: wiremesh" in error


def test_a_slip_of_the_finger_is_seen(run: Run) -> None:
    assert "--moddel=x (is it --model?): 'wiremesh up --help' lists" in run("up", "--moddel=x")[2]
    assert "--temprature (is it --temperature?)" not in run("nodes", "--temprature", "1")[2], "it has no such flag"
    assert "unrecognized arguments: b: 'wiremesh drain --help'" in run("drain", "a", "b")[2]


@pytest.mark.parametrize("command", ["keygen", "run", "call", "nodes"])
def test_each_command_names_a_variable_for_each_flag(run: Run, command: str) -> None:
    _, out, _ = run(command, "--help")
    described = out[out.index("options:") :].replace("-h, --help", "")
    assert described.count("[WIREMESH_") == sum(line.startswith("  --") for line in described.splitlines())


def test_the_policies_are_those_of_the_mesh() -> None:
    assert set(flags.POLICIES) == set(POLICIES) - {"direct"}


@pytest.mark.parametrize("kind", ["Keygen", "Call", "Nodes"])
def test_each_flag_has_help(kind: str) -> None:
    assert list(getattr(flags, f"{kind.upper()}_HELP")) == list(getattr(flags, f"{kind}Flags").__struct_fields__)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    program = (
        "import sys, launch.cli\n"
        "try: launch.cli.main(['--help'])\n"
        "finally: print('HEAVY', {'zmq', 'asyncio', 'zeroconf', 'numpy', 'uvloop', 'logging'} & set(sys.modules))"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "HEAVY set()" in done.stdout
    assert time.perf_counter() - begin < 5  # 0.08 s here; a slow, busy machine must not fail it


# --- Mistakes -------------------------------------------------------------------------------------------


def test_a_variable_that_cannot_be_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIREMESH_DRAIN_S", "soon")
    assert run("nodes") == (Exit.SETTING, "", "wiremesh: WIREMESH_DRAIN_S is 'soon': it must be a number\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nodes", "--mesh", "../up"), Exit.SETTING, "--mesh (WIREMESH_MESH) is '../up'"),
        (("call", "a.b.c", "{"), Exit.USAGE, "not JSON"),
        (("call", "a.b", "{}"), Exit.USAGE, "namespace.component.endpoint"),
        (("call", "a.b.c", "--policy", "best"), Exit.SETTING, "round_robin, random, power_of_two, least_loaded"),
        (("call", "a.b.c", "--timeout-s", "-1"), Exit.SETTING, "--timeout-s"),
        (("call", "a.b.c", "--direct", "xyz"), Exit.USAGE, "16 hexadecimal digits"),
        (("nodes", "--join", "carrier-pigeon"), Exit.SETTING, "--join"),
        (("run", "no_such_module:x"), Exit.USAGE, "no module 'no_such_module'"),
        (("run", "no_such_file.py:x"), Exit.USAGE, "no file"),
    ],
)
def test_mistakes_are_one_sentence(run: Run, words: tuple[str, ...], code: Exit, said: str) -> None:
    actual, out, error = run(*words)
    assert (actual, out, error.count("\n")) == (code, "", 1)
    assert said in error


def test_debug_shows_the_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WIREMESH_DEBUG", "1")
    assert cli.main(["run", "no_such_module:x"]) == Exit.USAGE
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Complaint(Exit.FAILED, "no"), Exit.FAILED),
        (FileNotFoundError(2, "gone", "x"), Exit.SETTING),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (ZeroDivisionError("oh"), Exit.INTERNAL),
    ],
)
def test_how_errors_end(run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: Exit) -> None:
    def fail(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert run("nodes")[0] == code


@pytest.mark.parametrize("name", cli.CODES)
def test_every_error_with_a_code_exists(name: str) -> None:
    module, _, kind = name.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), kind), Exception)


def test_a_reader_that_goes_away_is_no_mistake() -> None:
    command = f"{sys.executable} -m launch.cli --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


# --- Another package named proto ------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["from_google = True", "import google.protobuf.nothing", "raise SystemError('old')"])
def test_another_proto_is_named_before_anything_breaks(tmp_path: Path, text: str) -> None:
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto" / "__init__.py").write_text(text)
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; from launch.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program, "nodes"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (Exit.SETTING, "", 1)
    assert "proto" in done.stderr and "virtual environment of its own" in done.stderr
    assert str(tmp_path) in done.stderr or "cannot be imported" in done.stderr


def test_our_proto_passes() -> None:
    collision.check_proto()


def test_the_cure_names_both_packages() -> None:
    assert "proto-plus" in collision.CURE and codes.Exit.SETTING == 78


# --- keygen ---------------------------------------------------------------------------------------------


def test_keygen_makes_a_key_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    code, out, _ = run("keygen", "--mesh", "blue")
    path = tmp_path / "wiremesh" / "blue.key"
    assert code == 0
    assert str(path) in out and "tag: " in out
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    code, _, error = run("keygen", "--mesh", "blue")
    assert code == Exit.KEY and "--force" in error and path.read_bytes() == before
    assert run("keygen", "--mesh", "blue", "--force")[0] == 0
    assert path.read_bytes() != before


def test_keygen_at_a_path_from_a_variable(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIREMESH_KEYGEN_PATH", str(tmp_path / "here.key"))
    assert run("keygen")[0] == 0
    assert (tmp_path / "here.key").exists()


def test_the_secret_is_not_printed(run: Run, tmp_path: Path) -> None:
    _, out, _ = run("keygen", "--path", tmp_path / "a.key")
    secret = next(line.split()[-1] for line in (tmp_path / "a.key").read_text().splitlines() if "secret" in line)
    assert secret not in out


# --- run ------------------------------------------------------------------------------------------------

COMPONENT = """
from mesh import Component
hello = Component("test.hello")
@hello.endpoint
async def generate(request, context):
    yield request
"""


def test_run_serves_the_named_component_with_the_flags(
    run: Run, modules: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = []
    monkeypatch.setattr("launch.run.serve", lambda component, options: served.append((component, options)) or 0)
    name = modules("one_component", COMPONENT + "hello.run()\n")  # Must not serve while it is imported.
    for target in (name, f"{name}:hello", f"{name}.py:hello"):
        assert run("run", target, "--mesh", "blue", "--drain", "3")[0] == 0
    assert [(component.name, options.mesh, options.drain_s) for component, options in served] == [
        ("test.hello", "blue", 3)
    ] * 3


@pytest.mark.parametrize(
    ("text", "target", "said"),
    [
        (COMPONENT, "user_module:nobody", "it has: hello"),
        (COMPONENT, "user_module:generate", "it has: hello"),
        ("x = 1", "user_module", "it has none"),
        (COMPONENT + "other = Component('test.other')", "user_module", "it has: hello, other"),
        ("import no_such_dependency", "user_module", "no_such_dependency"),
        ("def f(): raise ValueError('bad day')\nf()", "user_module:x", "ValueError: bad day at "),
        ("def f(:", "user_module:x", "SyntaxError"),
        ("raise SystemExit(3)", "user_module:x", "SystemExit: 3"),
    ],
)
def test_run_explains_what_is_wrong_with_a_module(
    run: Run, modules: Callable[[str, str], str], text: str, target: str, said: str
) -> None:
    modules("user_module", text)
    code, _, error = run("run", target)
    assert (code, error.count("\n")) == (Exit.USAGE, 1)
    assert said in error


def test_run_refuses_a_file_that_another_module_hides(run: Run, modules: Callable[[str, str], str]) -> None:
    modules("user_module", COMPONENT)
    Path("json.py").write_text(COMPONENT)
    code, _, error = run("run", "json.py:hello")
    assert code == Exit.USAGE and "rename it" in error
    assert json.loads("1") == 1
