"""The repository keeps its own rules (they are in `tidy.py`), and a plant for each rule shows that it bites."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tidy
from tests.tidy import CHECKS, MAY_IMPORT, RATCHET, ROOT, Check, Module, files, modules, ours, parsed, sizes


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_every_module(check: Check) -> None:
    known = modules()
    found = [f"{module.path}:{line}: {text}" for module in known.values() for line, text in check(module, known)]
    assert not found, "\n".join(["", check.__doc__ or "", *found])


def test_the_ratchet_only_turns_one_way() -> None:
    actual = {name: (size, limit) for module in modules().values() for name, _, size, limit in sizes(module)}
    stale = [name for name, size in RATCHET.items() if name not in actual or actual[name][0] <= actual[name][1]]
    loose = [f"{name}: {actual[name][0]}" for name, size in RATCHET.items() if actual.get(name, (size,))[0] < size]
    assert not stale, f"no longer needed: {stale}"
    assert not loose, f"lower these: {loose}"


def test_lines_and_places_of_every_text() -> None:
    found = []
    for path in files():
        if Path(path).suffix not in tidy.TEXTS or path == "LICENSE":
            continue
        text = (ROOT / path).read_text()
        found += [f"{path}:{line}: {complaint}" for line, complaint in tidy.foreign(text)]
        if not path.endswith((".md", ".json")):
            lines = enumerate(text.splitlines(), 1)
            found += [
                f"{path}:{number}: {len(line)} characters" for number, line in lines if len(line) > tidy.LINE_CHARS_MAX
            ]
    assert not found, "\n".join(["", *found])


def test_no_module_hides_one_of_the_standard_library() -> None:
    """A script's folder stands first on sys.path, and so does the repository's root."""
    tops = {path.split("/", 1)[0].removesuffix(".py") for path in files()}
    folders = {Path(path).parent for path in files() if path.endswith(".py")}
    loose = {folder for folder in folders if not (ROOT / folder / "__init__.py").exists()}
    scripts = {Path(path).stem for path in files() if path.endswith(".py") and Path(path).parent in loose}
    assert not (tops | scripts) & sys.stdlib_module_names


def test_top_level_names_are_ours() -> None:
    for package in sorted(MAY_IMPORT.keys() - {"tests"}):
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin == str(ROOT / package / "__init__.py"), (package, spec)


IMPORT_ALONE = """
import gc, os, sys, importlib
for name in (
    *("asyncio", "argparse", "csv", "ctypes", "logging", "ssl", "statistics", "zipfile", "email.policy", "http.server"),
    *("multiprocessing.shared_memory", "urllib.request", "msgspec", "zmq", "zeroconf", "numpy", "uvloop", "httptools"),
    *("uvicorn.server", "prometheus_client", "tokenizers", "jinja2.sandbox", "xxhash"),
):
    importlib.import_module(name)  # what is not ours may be shared: it makes this test ten times faster
gc.disable()
gc.freeze()
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except BaseException as error:
            # What an engine loads into its own processes may need its package, and that is not installed here.
            lacks = isinstance(error, ModuleNotFoundError) and error.name in ("torch", "vllm", "sglang", "tensorrt_llm")
            if not (lacks and name.startswith("nodes.engines.")):
                print(f"{name}: {error!r}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
PROTO_ALONE = """
import sys, importlib
allowed = sys.stdlib_module_names | {"msgspec", "typing_extensions", "proto"}
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed: raise ImportError(f"proto must not need {name}")
sys.meta_path.insert(0, Wall())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def python(program: str, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", program, *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_every_module_imports_alone() -> None:
    """No module needs another to have been imported before it."""
    names = [module.name for module in modules().values() if ours(module)]
    halves = [python(IMPORT_ALONE, *names[::2]), python(IMPORT_ALONE, *names[1::2])]
    assert [half.communicate(timeout=180)[0] for half in halves] == ["", ""]


def test_proto_needs_only_msgspec() -> None:
    names = [module.name for module in modules().values() if module.package == "proto"]
    process = python(PROTO_ALONE, *names)
    assert (process.communicate(timeout=60)[0], process.returncode) == ("", 0)


# --- The plants: each is one file that a check must find, and nothing else of the file --------------------

KNOWN = {
    module.name: module for module in [parsed("mesh/shell.py", '"""Shell."""'), parsed("mesh/pure.py", '"""Pure."""')]
}
PLANTS = [
    ("kind", "mesh/a.py", '"""About."""'),
    ("kind", "proto/a.py", "x = 1"),
    ("direction", "proto/a.py", "import mesh.core"),
    ("direction", "mesh/a.py", "def f():\n    from nodes import router"),
    ("direction", "launch/a.py", "import bench"),
    ("direction", "bench/a.py", "from tests import tidy"),
    ("pure_imports", "mesh/a.py", "import os"),
    ("pure_imports", "mesh/a.py", "def f():\n    import time"),
    ("pure_imports", "mesh/a.py", "from asyncio import sleep"),
    ("pure_imports", "mesh/a.py", "from mesh.shell import f"),
    ("pure_imports", "mesh/a.py", "from mesh import shell"),
    ("pure_imports", "mesh/a.py", "import numpy"),
    ("pure_calls", "mesh/a.py", "x = hash('a')"),
    ("pure_calls", "mesh/a.py", "x = id(1)"),
    ("pure_calls", "mesh/a.py", "import random\nx = random.random()"),
    ("pure_calls", "mesh/a.py", "from random import choice"),
    ("pure_calls", "mesh/a.py", "def f():\n    global x"),
    ("pure_sets", "mesh/a.py", "for x in {1, 2}: f(x)"),
    ("pure_sets", "mesh/a.py", "xs = [x for x in set(y)]"),
    ("pure_sets", "mesh/a.py", "class A:\n    def f(self):\n        self.xs: set[int] = g()\n        list(self.xs)"),
    ("pure_sets", "mesh/a.py", "def f(xs: frozenset[int]):\n    for x in xs - {1}: g(x)"),
    ("pure_sets", "mesh/a.py", "xs = set()\nxs.pop()"),
    ("pure_sets", "mesh/a.py", "xs = set()\nys = [*xs]"),
    ("bans", "nodes/a.py", "import pickle"),
    ("bans", "mesh/a.py", "from zmq import asyncio"),
    ("bans", "mesh/a.py", "import zmq.asyncio"),
    ("bans", "launch/a.py", "x = eval('1')"),
    ("bans", "mesh/a.py", "x = socket.recv_pyobj()"),
    ("bans", "tests/a.py", "import time\ntime.sleep(1)"),
    ("bans", "mesh/a.py", "from time import sleep"),
    ("bans", "mesh/a.py", "try:\n    f()\nexcept Exception:\n    pass"),
    ("bans", "mesh/a.py", "try:\n    f()\nexcept:\n    ..."),
    ("bans", "mesh/a.py", "with contextlib.suppress(Exception):\n    f()"),
    ("notes", "mesh/a.py", "x = 1  # TODO: two"),
    ("sizes", "mesh/a.py", "x = 1\n" * (tidy.FILE_LINES_MAX + 1)),
    ("sizes", "mesh/a.py", "def f():\n" + "    x = 1\n" * tidy.FUNCTION_LINES_MAX),
]
INNOCENT = '''"""Pure. Does everything that looks forbidden and is not."""

from random import Random
from typing import TYPE_CHECKING

import msgspec

from mesh import pure
from mesh.pure import thing

if TYPE_CHECKING:
    import asyncio


def g(random: Random) -> float:
    return random.random()


def f(names: set[str], rng: Random, time: "asyncio.Future[int]") -> list[str]:
    if "a" in names and rng.random() < 1:
        return sorted(names)
    try:
        return [name for name in sorted(names)]
    except ValueError:
        pass
    return list({"a": 1})
'''


def complaints(name: str, module: Module) -> list[tuple[int, str]]:
    check = next(check for check in CHECKS if check.__name__ == f"check_{name}")
    return list(check(module, KNOWN))


@pytest.mark.parametrize(("name", "path", "text"), PLANTS, ids=range(len(PLANTS)))
def test_each_check_finds_its_plant(name: str, path: str, text: str) -> None:
    header = "" if name == "kind" or "lines" in text else '"""Pure."""\n'
    assert len(complaints(name, parsed(path, header + text))) == 1


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_no_check_finds_the_innocent(check: Check) -> None:
    assert not list(check(parsed("mesh/a.py", INNOCENT), KNOWN))


def test_foreign_places_are_found() -> None:
    assert list(tidy.foreign("see /wo" + "rk/main/x")) and list(tidy.foreign("a str_replace_" + "based_edit_tool"))
    assert not list(tidy.foreign("net" + "/wo" + "rk/x in ../wo" + "rk/ and /usr/bin/python3"))
