"""ZeroMQ's thread that lets go of payloads lives as long as the process; a test must not leave it behind."""

from collections.abc import Iterator

import pytest
from zmq.utils.garbage import gc


@pytest.fixture(autouse=True)
def payloads_let_go() -> Iterator[None]:
    yield
    gc.stop()
