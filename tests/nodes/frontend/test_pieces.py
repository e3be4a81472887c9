"""The small pure parts, and the shells that are nearly nothing."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.flags_frontend import FRONTEND_HELP, FrontendFlags
from mesh.options import OptionRefused
from nodes.frontend import docs, headers, keyfile, keys, limits
from nodes.frontend.board import Board, Kept
from nodes.frontend.journal import Journal
from nodes.frontend.keys import Admission, Keyring, KeysRefused, Quotas
from nodes.frontend.log import Log, numbered
from nodes.frontend.record import Record, as_json, as_text
from nodes.frontend.server import Listener


def test_sessions_come_from_many_headers_the_surest_first() -> None:
    assert headers.session({}) == b""
    both = {b"x-session-id": b"a", b"x-claude-code-session-id": b"b"}
    assert headers.session(both) == b"x-claude-code-session-id:b"
    assert headers.session({b"x-session-id": b"z" * 9_999}).count(b"z") == limits.SESSION_BYTES_MAX


@given(st.dictionaries(st.sampled_from([*headers.SESSIONS, b"traceparent", b"x-request-id"]), st.binary(max_size=60)))
def test_no_header_is_a_mistake_of_ours(found: dict[bytes, bytes]) -> None:
    assert headers.client_id(found).isascii() and len(headers.client_id(found)) <= limits.CLIENT_ID_CHARS_MAX
    headers.session(found)
    headers.trace(found, "0" * 16)
    headers.credential(found)
    headers.timeout_s(found, False, 5.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [(b"100", 0.1), (b"1e9", 600.0), (b"0", None), (b"nan", None), (b"x", None)]
)
def test_times_in_headers(text: bytes, seconds: float | None) -> None:
    assert headers.timeout_s({b"x-request-timeout-ms": text}, True, 600.0) == seconds


def test_last_events() -> None:
    assert headers.last_event({}) == headers.last_event({b"last-event-id": b"x"}) == -1
    assert headers.last_event({b"last-event-id": b"12"}) == 12


def test_keys_of_a_file() -> None:
    assert keys.parse(b"# comment\nann:sk-1\n\n sk-2 \n", "f") == {"sk-1": "ann", "sk-2": "key4"}
    for content in (b"", b"a:\n", b"a:b c\n", b"\xff", b"a:k\nb:k\n"):
        with pytest.raises(KeysRefused) as refused:
            keys.parse(content, "f")
        assert "f" in str(refused.value) and "sk-" not in str(refused.value)
    ring = Keyring({"sk-1": "ann"}, b"x" * 32)
    assert ring.name("sk-1") == "ann" and ring.name("sk-2") is None and ring.name("") is None
    assert ring.name("\udcff" * 3) is None and ring.name("x" * 10_000) is None


def test_a_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("ann:sk-1\n")
    path.chmod(0o644)
    with pytest.raises(KeysRefused, match="chmod 600"):
        keyfile.load(str(path))
    path.chmod(0o600)
    ring = keyfile.load(str(path))
    assert ring.name("sk-1") == "ann"
    path.write_text("nothing good:\n")
    assert keyfile.again(str(path), ring) is ring
    path.write_text("bob:sk-2\n")
    changed = keyfile.again(str(path), ring)
    assert changed is not None and changed.name("sk-1") is None and changed.name("sk-2") == "bob"
    for wrong in (str(tmp_path), str(tmp_path / "none"), os.devnull):
        with pytest.raises(KeysRefused):
            keyfile.load(wrong)


def test_quotas() -> None:
    quotas = Quotas(2.0, 3)
    assert [quotas.begin("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.5] and quotas.begin("b", 0.0) == 0.0
    assert quotas.begin("a", 0.5) == 0.0 and quotas.begin("a", 9.0) == 1.0, "three run"
    quotas.end("a")
    assert quotas.begin("a", 9.0) == 0.0
    free = Quotas()
    assert all(free.begin("a", 0.0) == 0.0 for _ in range(100))


def test_admission_says_when_there_will_be_room() -> None:
    admission = Admission(4)
    assert admission.begin(9) == 0.0, "one request alone always has room"
    assert admission.begin(1) > 0
    admission.end(9, 1.0)
    for moment in range(2, 40):
        assert admission.begin(1) == 0.0
        admission.end(1, float(moment))
    assert admission.begin(4) == 0.0 and 0.5 < admission.begin(1) < 2.0


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=30), st.integers(0, 30), st.integers(1, 40))
def test_a_log_gives_every_event_once(events: list[bytes], first: int, bytes_max: int) -> None:
    log, read, cursor = Log(), [], first
    log.add(events)
    while part := log.since(cursor, bytes_max):
        read += part
        cursor += len(part)
    assert read == events[first:] and log.bytes == sum(map(len, events)) and log.end == len(events)


def test_a_log_that_is_too_long_forgets_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_BYTES_MAX", 10)
    log = Log()
    log.add([b"aaaa"] * 5)
    log.trim(2)
    assert log.full and not log.whole and (log.first, log.end, log.bytes) == (2, 5, 12)
    log.trim(5)
    assert (log.first, log.bytes) == (3, 8) and log.since(3, 99) == [b"aaaa"] * 2
    assert numbered([b"data: x\n\n"], 7) == b"id: 7\ndata: x\n\n"


def test_a_board() -> None:
    board: Board[int] = Board(lambda item: item, 100)
    board.add(Kept("one", b"1", "ann", b"", False, 60))
    board.add(Kept("two", b"2", "ann", b"", True, 30))
    assert board.named("one", "ann") and not board.named("one", "bob") and board.same(b"1")
    board.answered("one")
    board.answered("two")
    assert board.same(b"1") is None and board.same(b"2") is not None and board.named("one", "ann")
    board.leave("one", 5.0)
    assert board.due(4.0) == [] and board.bytes == 90
    board.stay("one")
    assert board.due(99.0) == []
    board.leave("one", 5.0)
    assert board.due(5.0) == [60] and len(board) == 1
    board.add(Kept("three", b"3", "", b"", False, 90))
    assert board.due(6.0) == [], "what runs is not given up"
    board.leave("two", 50.0)
    board.leave("three", 60.0)
    assert board.due(6.0) == [30] and not board.full


def test_lines_about_requests() -> None:
    told = Record("1", client_id="a b\nc", model="m", status=200, duration_s=0.5, nodes=["x", "y"])
    text = as_text(told, "2026-01-01 00:00:00,000")
    assert text.count("\n") == 1 and 'client_id="a b\\nc"' in text and "nodes=x,y" in text and "key=" not in text
    line = json.loads(as_json(told, 5.0))
    assert line["time"] == 5.0 and line["logger"] == "wiremesh.request" and "trace" not in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_journal_writes_all_at_once(log_format: str) -> None:
    async def main() -> None:
        written: list[str] = []
        journal = Journal(log_format, written.append)
        for number in range(5):
            journal.add(Record(str(number)))
        assert not written
        journal.flush()
        journal.flush()
        assert len(written) == 1 and written[0].count("\n") == 5

    asyncio.run(main())


def test_a_port_that_is_taken_is_one_sentence() -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OptionRefused, match="another program listens there"):
            Listener("127.0.0.1", other.getsockname()[1])
    with pytest.raises(OptionRefused, match="--host is"):
        Listener("203.0.113.9", 0)


def test_frontends_share_a_port() -> None:
    first = Listener("127.0.0.1", 0)
    second = Listener("127.0.0.1", first.port)
    assert first.url() == second.url()
    first.socket.close()
    second.socket.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"policy": "best"},
        {"port": 70_000},
        {"tls_cert": "x"},
        {"timeout_s": 0.0},
        {"rate_per_key": -1.0},
        {"cors_origin": ("a b",)},
        {"streams_max": 0},
        {"body_bytes_max": 0},
        {"media_bytes_max": 0},
        {"media_urls": ("http://example.org/",)},
    ],
)
def test_flags_that_cannot_be_used(wrong: dict[str, object]) -> None:
    [name] = wrong
    with pytest.raises(OptionRefused, match="--" + name.replace("_", "-")):
        FrontendFlags(**wrong)  # type: ignore[arg-type]


def test_every_flag_is_explained() -> None:
    assert set(FRONTEND_HELP) == set(FrontendFlags.__struct_fields__)
    settings = FrontendFlags(policy="power-of-two", migration_limit=5, media_urls=("off",)).settings()
    assert settings.media_urls == ()
    assert (settings.policy, settings.migrations_max) == ("power_of_two", 5)


def test_the_page_needs_nobody_else() -> None:
    assert b"http://" not in docs.PAGE and b"https://" not in docs.PAGE and b"sha256-" in docs.POLICY
