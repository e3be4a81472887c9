"""The fixture that looks for leaks sees each kind of them."""

import os
import subprocess
import sys
import threading

from tests.conftest import left_open


def test_an_open_descriptor_is_seen() -> None:
    before = left_open()
    reader, writer = os.pipe()
    assert len(left_open() - before) == 2
    os.close(reader)
    os.close(writer)
    assert left_open() == before


def test_a_thread_is_seen() -> None:
    before, end = left_open(), threading.Event()
    thread = threading.Thread(target=end.wait, name="stray")
    thread.start()
    assert left_open() - before == {"thread stray"}
    end.set()
    thread.join()


def test_a_child_is_seen_until_it_is_waited_for() -> None:
    before = left_open()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert any(name.startswith(f"process {child.pid} ") for name in left_open() - before)
    child.communicate(b"\n")
    assert left_open() == before
