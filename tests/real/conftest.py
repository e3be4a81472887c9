"""What real processes of a test share: a runtime directory of their own, short enough for sockets, and no settings."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.real.nursery import Nursery
from tests.real.processes import NURSERIES

ENGINES = ("torch", "llama_cpp")


@pytest.fixture(scope="session", autouse=True)
def nursery() -> Iterator[None]:
    """Nodes are there in a moment, because what they import is. Not where that is an engine: those begin threads."""
    if any(find_spec(name) for name in ENGINES):
        yield
        return
    NURSERIES.append(Nursery())
    yield
    NURSERIES.pop().close()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A private runtime directory; nodes that are started with it see only each other."""
    for name in list(os.environ):
        if name.startswith(("WIREMESH_", "SLURM_")):
            monkeypatch.delenv(name)
    path = tempfile.mkdtemp(prefix="wm")
    monkeypatch.setenv("XDG_RUNTIME_DIR", path)
    monkeypatch.setenv("XDG_CONFIG_HOME", path)
    yield path
    shutil.rmtree(path, ignore_errors=True)  # a node that dies may just be writing there
