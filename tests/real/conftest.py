"""What real processes of a test share: a runtime directory of their own, short enough for sockets, and no settings."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest


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
