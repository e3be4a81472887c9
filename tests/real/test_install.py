"""The wheel, as a stranger gets it: built from a copy, installed into an empty environment, run from another folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("proto", "mesh", "nodes", "launch", "bench")
FILES = ("setup.cfg", "pyproject.toml", "LICENSE", "README.md")


def run(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run to the end, with nothing of our surroundings that could find the repository."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WIREMESH", "VIRTUAL"))
    }
    command = [str(word) for word in words]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False, timeout=300)


def must(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and, besides it, only what the wheel depends on."""
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    must(run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, folder=folder))
    (wheel,) = folder.glob("wiremesh-*.whl")
    made = folder / "environment"
    must(run(sys.executable, "-m", "venv", "--without-pip", made, folder=folder))
    into = ("--python", made / "bin/python", "install", "--quiet", "--no-deps", "--no-index")
    must(run(sys.executable, "-m", "pip", *into, wheel, folder=folder))
    (site,) = made.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return made


def test_the_command_runs_from_another_folder(environment: Path, tmp_path: Path) -> None:
    assert must(run(environment / "bin/wiremesh", "--version", folder=tmp_path)).startswith("wiremesh ")
    assert "keygen" in must(run(environment / "bin/wiremesh", "--help", folder=tmp_path))


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_the_installed_one_and_typed(environment: Path, tmp_path: Path, package: str) -> None:
    where = must(run(environment / "bin/python", "-c", f"import {package}; print({package}.__file__)", folder=tmp_path))
    assert Path(where.strip()).is_relative_to(environment)
    assert (Path(where.strip()).parent / "py.typed").exists()


def test_nothing_but_the_packages_is_installed(environment: Path) -> None:
    (site,) = environment.glob("lib/python*/site-packages")
    found = {path.name for path in site.iterdir() if not path.name.startswith(("wiremesh-", "_"))}
    assert found == {*PACKAGES, "dependencies.pth"}


def test_every_module_and_example_is_in_the_wheel(environment: Path) -> None:
    (site,) = environment.glob("lib/python*/site-packages")
    for package in PACKAGES:
        wanted = [path for path in (ROOT / package).rglob("*") if path.suffix in {".py", ".md", ".sh"}]
        missing = [path for path in wanted if not (site / path.relative_to(ROOT)).exists()]
        assert not missing


def test_an_example_can_be_run_by_name(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "bin/wiremesh", "run", "launch.examples.hello_world.server:nobody", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "it has: hello" in done.stderr  # So it was found, imported, and did not serve by itself.
