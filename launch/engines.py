"""Shell. `wiremesh engines`: which engines there are on this machine, what each lacks, and how it is installed."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

import msgspec

from launch import VERSION
from launch.codes import Complaint, Exit
from launch.engine_table import (
    CPU_INDEX,
    ITSELF,
    KINDS,
    NAMES,
    PACKAGES,
    Machine,
    Place,
    Row,
    can_install,
    kind_of,
    no_gpu,
    row_of,
    steps,
)
from launch.flags_engines import VENV, EnginesFlags
from mesh.options import collect

NVIDIA = Path("/proc/driver/nvidia")
AMD = Path("/dev/kfd")
PLUGIN = "libplugin_"
TORCH_HINT = "; if PyTorch's own index cannot be reached, name another torch: --torch torch is PyPI's, 5 GB on Linux"
HOME = "WIREMESH_ENGINES"  # the folder of all environments; as launch/setup.sh knows it


def main(arguments: argparse.Namespace) -> int:
    """List engines, or install one; returns the exit code."""
    flags = collect(EnginesFlags, vars(arguments), os.environ, "engines")
    words = arguments.words
    if not words:
        return _list(flags)
    if words[0] != "install" or len(words) != 2 or words[1] not in NAMES:
        raise Complaint(Exit.USAGE, f"'engines {' '.join(words)}': it is 'engines install NAME', of {', '.join(NAMES)}")
    return _install(words[1], flags)


# --- What is there ------------------------------------------------------------------------------------------


def _list(flags: EnginesFlags) -> int:
    rows = rows_of(machine(), home_of(os.environ))
    if flags.json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
        return Exit.OK
    widths = [max(len(row.name) for row in rows), max(len(row.version) for row in rows)]
    for row in rows:
        print(f"{row.name:{widths[0]}}  {row.version or '-':{widths[1]}}  {shown(row)}")
    return Exit.OK


def shown(row: Row) -> str:
    """What is said of an engine after its name and version."""
    if not row.starts:
        return f"no: {row.missing}" + (f" ({row.where})" if row.version and row.where else "")
    ways = ", ".join(way for way in row.transports if way != "nixl")
    nixl = f"nixl ({', '.join(row.nixl)})" if "nixl" in row.transports else ""
    moves = "; ".join(filter(None, (ways, nixl)))
    text = f"yes: {row.about}, on {row.device}" + (f"; caches move by {moves}" if moves else "")
    return text + (f"; start its workers with {row.where}/bin/wiremesh" if row.where else "")


def rows_of(here: Machine, home: Path) -> list[Row]:
    """All engines, each where it is best."""
    ours = looked(sys.path, "")
    found = []
    for kind in KINDS:
        venv = home / kind.name
        sites = sorted(map(str, venv.glob("lib/python*/site-packages")))
        places = [ours, *([looked(sites, str(venv))] if sites else [])]
        found.append(row_of(kind, places if kind.packages else [ours], here))
    return found


def looked(paths: list[str], folder: str) -> Place:
    """What an environment has, without starting its Python."""
    wanted, versions = {name.lower() for name in PACKAGES}, {ITSELF: VERSION} if not folder else {}
    for distribution in distributions(path=paths):
        name = (distribution.metadata["Name"] or "").lower()
        if name in wanted:
            versions.setdefault(name, distribution.version)
    plugins = {
        file.stem.removeprefix(PLUGIN) for path in paths for file in Path(path).glob(f"nixl_*.libs/nixl/{PLUGIN}*.so")
    }
    return Place(folder, versions, tuple(sorted(plugins)))


def machine() -> Machine:
    """This one."""
    if any(NVIDIA.glob("gpus/*")):
        return Machine(sys.platform, "nvidia", _driver())
    return Machine(sys.platform, "amd" if AMD.exists() else "")


def _driver() -> str:
    try:
        words = (NVIDIA / "version").read_text().split()
    except OSError:
        return ""
    return next((word for word in words if word[0].isdigit() and "." in word), "")


def home_of(environment: Mapping[str, str]) -> Path:
    """Where the environments of engines are."""
    return Path(environment.get(HOME) or VENV).expanduser()


# --- Installing one -----------------------------------------------------------------------------------------


def _install(name: str, flags: EnginesFlags) -> int:
    kind, here = kind_of(name), machine()
    if not kind.packages:
        print(f"{name} needs nothing besides wiremesh")
        return Exit.OK
    if not can_install(kind, here):
        raise Complaint(Exit.SETTING, f"{name} cannot run here: {no_gpu(kind, here)}")
    venv = Path(flags.venv).expanduser() if flags.venv else home_of(os.environ) / name
    commands = commands_of(venv, steps(kind, here, _ours(), flags.torch, flags.extra))
    if not flags.run:
        print("\n".join(map(shlex.join, commands)))
        return Exit.OK
    for command in commands:
        print(f"running: {shlex.join(command)}", flush=True)
        if code := subprocess.call(command):
            hint = "" if flags.torch or CPU_INDEX not in command else TORCH_HINT
            raise Complaint(Exit.FAILED, f"that failed with exit code {code}: {name} is not installed{hint}")
    print(f"{name} is installed; start its workers with {venv}/bin/wiremesh worker --engine {name}")
    return Exit.OK


def commands_of(venv: Path, calls: list[list[str]]) -> list[list[str]]:
    """Make the environment if it is not there, then call its pip."""
    python = str(venv / "bin" / "python")
    made = [] if Path(python).exists() else [[sys.executable, "-m", "venv", str(venv)]]
    quiet = ["--quiet", "--disable-pip-version-check"]
    return [*made, *([python, "-m", "pip", words[0], *quiet, *words[1:]] for words in calls)]


def _ours() -> list[str]:
    """How pip gets the Wiremesh that this is."""
    root = Path(__file__).resolve().parents[1]
    return ["--editable", str(root)] if (root / "setup.cfg").exists() else [f"{ITSELF}=={VERSION}"]
