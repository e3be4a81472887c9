"""What is said: once a minute per topic, as text or as JSON lines."""

import json
import logging
import sys
import threading

import pytest

from mesh.logs import REMARK_S, REMARKS_MAX, WAITING_BYTES_MAX, JsonLines, Outlet, Remarks


def test_the_same_topic_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    remarks = Remarks(logging.getLogger("test"))
    for now in (0.0, 1.0, REMARK_S - 0.1, REMARK_S + 0.1):
        remarks.say("a", f"a at {now}", now)
        remarks.say("b", "b", now)
    assert caplog.messages == ["a at 0.0", "b", f"a at {REMARK_S + 0.1}", "b"]


def test_a_flood_of_topics_does_not_fill_the_memory() -> None:
    log = logging.getLogger("flood")
    log.disabled = True
    remarks = Remarks(log)
    for number in range(3 * REMARKS_MAX):
        remarks.say(str(number), "x", 0.0)
    assert len(remarks._said) == REMARKS_MAX


def test_json_lines_carry_the_traceback() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        record = logging.LogRecord("a.b", logging.ERROR, "", 0, "%s failed", ("it",), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["logger"], found["text"]) == ("error", "a.b", "it failed")
    assert "ValueError: boom" in found["traceback"]


def test_a_reader_that_stops_holds_up_nobody_and_hears_what_it_missed() -> None:
    """The pipe is full, so a write blocks until somebody reads."""
    reads, written = threading.Event(), []

    def write(text: str) -> None:
        assert reads.wait(10.0)
        written.append(text)

    outlet = Outlet(write)
    line = "x" * 1023 + "\n"
    for _ in range(2 * WAITING_BYTES_MAX // len(line)):
        outlet.put(line)
    outlet.flush(0.01)
    reads.set()
    outlet.flush(10.0)
    outlet.put("later\n")
    outlet.flush(10.0)
    told = "".join(written)
    shown, lost = told.count(line), int(told.partition("(")[2].partition(" lines")[0])
    assert shown + lost == 2 * WAITING_BYTES_MAX // len(line) and lost > 0
    assert shown * len(line) <= 2 * WAITING_BYTES_MAX
    assert "later\n" in told
    outlet.close()


def test_an_outlet_whose_reader_is_gone() -> None:
    def write(text: str) -> None:
        raise BrokenPipeError

    outlet = Outlet(write)
    outlet.put("one\n")
    outlet.flush(10.0)
    outlet.put("two\n")
    outlet.close()
