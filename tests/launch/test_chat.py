"""`wiremesh chat` against a frontend that plays its part: streams, errors, cancels, a conversation."""

import json
import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import Any

import pytest

from launch import chat
from launch.codes import Complaint, Exit
from launch.conversation import Conversation, Failure, Piece, harmless, read_event, read_failure, read_models, summary
from launch.flags_chat import CHAT_HELP, ChatFlags
from mesh.options import OptionRefused
from tests.terminal import PATIENCE_S, Terminal


class Played(ThreadingHTTPServer):
    """A frontend that answers with what the test has laid out, and keeps what it was asked."""

    daemon_threads = False
    parts = ("Hel", "lo", " you\n")
    status = 200
    error: dict[str, Any] | None = None
    at_most = 99  # messages that the model can hold
    broken = False  # it closes in mid-answer
    endless = False
    models = ("toy", "other")

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.left = threading.Event()  # a client closed its connection before the end
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.left.set()


class Answer(BaseHTTPRequestHandler):
    server: Played

    def do_GET(self) -> None:
        self._whole(200, {"data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(request)
        self.server.keys.append(self.headers["authorization"])
        if len(request["messages"]) > self.server.at_most:
            detail = {"message": "too long", "code": "context_length_exceeded"}
            self._whole(400, {"error": detail})
        elif self.server.status != 200:
            self._whole(self.server.status, {"error": {"message": "not now", "code": None}})
        else:
            self._stream()

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("connection", "close")
        self.end_headers()
        self._event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        while True:
            for part in self.server.parts:
                self._event({"choices": [{"delta": {"content": part}, "finish_reason": None}]})
            if not self.server.endless:
                break
        if self.server.error:
            self._event({"error": self.server.error})
            return
        if self.server.broken:
            return
        self._event({"choices": [{"delta": {}, "finish_reason": "length"}]})
        self._event({"choices": [], "usage": {"completion_tokens": 3}})
        self.wfile.write(b": ping\n\ndata: [DONE]\n\n")

    def _event(self, event: object) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def _whole(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def frontend() -> Iterator[Played]:
    with Played() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("WIREMESH_"):
            monkeypatch.delenv(name)


def ask(frontend: Played, *question: str, **flags: object) -> int:
    return chat.main(Namespace(prompt=list(question), url=frontend.url, **flags))


# --- One question ----------------------------------------------------------------------------------------


def test_a_question_as_an_argument(frontend: Played, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(frontend, "who", "are you?", system="Be brief.", temperature=0.0, seed=7) == 0
    assert capsys.readouterr() == ("Hello you\n", "")
    assert frontend.asked == [
        {
            "model": "toy",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "who are you?"}],
            "stream": True,
            "temperature": 0.0,
            "seed": 7,
            "stream_options": {"include_usage": True},
        }
    ]


def test_a_question_on_the_standard_input(
    frontend: Played, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frontend.parts = ("no line end",)
    for question in ((), ("-",)):
        monkeypatch.setattr(sys, "stdin", StringIO("a long\nquestion\n"))
        assert ask(frontend, *question, model="mine") == 0
    assert capsys.readouterr().out == "no line end\n" * 2
    assert [(asked["model"], asked["messages"][-1]["content"]) for asked in frontend.asked] == [
        ("mine", "a long\nquestion")
    ] * 2


def test_no_question(frontend: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO(" \n"))
    with pytest.raises(Complaint, match="no question") as caught:
        ask(frontend)
    assert caught.value.code == Exit.USAGE


def test_a_path_after_the_url_and_a_key(frontend: Played, capsys: pytest.CaptureFixture[str]) -> None:
    frontend.url += "/v1/"
    assert ask(frontend, "x", api_key="secret") == 0
    assert frontend.keys == ["Bearer secret"]


def test_nothing_listens(frontend: Played) -> None:
    frontend.url = "http://127.0.0.1:1"
    with pytest.raises(Complaint, match=r"nothing listens at http://127\.0\.0\.1:1 .*wiremesh up") as caught:
        ask(frontend, "x")
    assert caught.value.code == Exit.UNAVAILABLE


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"status": 503}, Exit.UNAVAILABLE, "not now"),
        ({"status": 401}, Exit.KEY, "not now"),
        ({"status": 400}, Exit.FAILED, "not now"),
        ({"error": {"message": "the worker failed"}}, Exit.FAILED, "the worker failed"),
        ({"broken": True}, Exit.FAILED, "ended too early"),
        ({"models": ()}, Exit.UNAVAILABLE, "no model is served"),
    ],
)
def test_how_an_answer_fails(frontend: Played, changes: dict[str, Any], code: Exit, said: str) -> None:
    for name, value in changes.items():
        setattr(frontend, name, value)
    with pytest.raises(Complaint, match=said) as caught:
        ask(frontend, "x")
    assert caught.value.code == code


def test_encryption_where_there_is_none(frontend: Played) -> None:
    frontend.url = frontend.url.replace("http:", "https:")
    with pytest.raises(Complaint, match="cannot connect to https://") as caught:
        ask(frontend, "x")
    assert caught.value.code == Exit.UNAVAILABLE


def test_something_else_listens(frontend: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answer, "do_GET", lambda self: self.wfile.write(b"220 mail\r\n"))
    with pytest.raises(Complaint, match="does not answer as a frontend does"):
        ask(frontend, "x")


# --- A conversation --------------------------------------------------------------------------------------


@pytest.fixture
def talk(frontend: Played, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say some lines, then leave."""
    monkeypatch.setattr(sys, "stdin", os.fdopen(os.open(os.devnull, os.O_RDONLY)))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)

    def talk(*lines: str | type[BaseException]) -> None:
        left = iter([*lines, EOFError])

        def say(prompt: str) -> str:
            line = next(left)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr("builtins.input", say)
        assert ask(frontend) == 0
        sys.stdin.close()

    return talk


def said(request: dict[str, Any]) -> list[str]:
    return [message["content"] for message in request["messages"]]


def test_a_conversation_is_remembered(
    frontend: Played, talk: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    talk("one", "", "two", KeyboardInterrupt, "/reset", "three")
    assert [said(request) for request in frontend.asked] == [["one"], ["one", "Hello you\n", "two"], ["three"]]
    out = capsys.readouterr().out
    assert "Hello you\n" in out and "(3 tokens, the first after" in out and "cut off" in out
    assert "(Ctrl-D leaves)" in out


def test_the_model_can_be_changed(
    frontend: Played, talk: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    talk("/model", "/model none", "/model other", "hello", "/help", "/dance", "/quit")
    assert frontend.asked[0]["model"] == "other"
    out = capsys.readouterr().out
    assert "no model 'none' is served: there are toy, other" in out
    assert "/reset" in out and "there is no /dance" in out


def test_an_answer_that_fails_ends_nothing(
    frontend: Played, talk: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    frontend.status = 503
    talk("one", "two")
    assert [said(request) for request in frontend.asked] == [["one"], ["two"]]
    assert capsys.readouterr().out.count("(not now)") == 2


def test_a_conversation_that_is_too_long_loses_its_beginning(
    frontend: Played, talk: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    frontend.at_most = 4
    frontend.parts = ("ok",)
    talk("one", "two", "three")
    assert said(frontend.asked[-2]) == ["one", "ok", "two", "ok", "three"]
    assert said(frontend.asked[-1]) == ["two", "ok", "three"]
    assert "its beginning is forgotten" in capsys.readouterr().out


def test_ctrl_c_cancels_the_answer_and_not_the_program(frontend: Played) -> None:
    frontend.endless = True
    with closing(Terminal("-m", "launch.cli", "chat", "--url", frontend.url)) as terminal:
        terminal.until("> ")
        terminal.type("hello\n")
        terminal.until("Hello you")
        terminal.process.send_signal(signal.SIGINT)
        terminal.until("(cancelled)")
        assert frontend.left.wait(PATIENCE_S), "the connection is closed, so the request is cancelled"
        frontend.endless = False
        terminal.until("> ")
        terminal.type("again\n")
        terminal.until("3 tokens")
        terminal.until("> ")
        terminal.type("\x04")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.text
    assert said(frontend.asked[-1])[0] == "hello" and said(frontend.asked[-1])[-1] == "again"
    assert said(frontend.asked[-1])[1].startswith("Hello you"), "what was said before the cancel is remembered"


# --- The pure parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", ": ping", "event: x", "id: 3"])
def test_what_says_nothing(line: str) -> None:
    assert read_event(line) == Piece()


@pytest.mark.parametrize("data", ["{", "[]", "3", '{"choices": 3}', '{"choices": [3]}', '"x"', "null", "{}"])
def test_an_event_that_cannot_be_read(data: str) -> None:
    with pytest.raises(Failure, match="cannot be read"):
        read_event(f"data: {data}")


@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b'{"error": 3}', b"[]", b'{"detail": "x"}'])
def test_a_refusal_of_any_form_has_words(body: bytes) -> None:
    failure = read_failure(502, body)
    assert str(failure) and failure.status == 502


def test_a_list_of_models_that_is_none() -> None:
    with pytest.raises(Failure, match="no frontend"):
        read_models(b"<html>")


def test_a_question_without_an_answer_is_forgotten() -> None:
    conversation = Conversation(ChatFlags(), "toy")
    conversation.ask("one")
    conversation.answered("")
    conversation.ask("two")
    assert said(json.loads(conversation.body())) == ["two"]
    assert not conversation.shorten()


def test_an_answer_does_not_command_the_terminal() -> None:
    assert "".join(harmless("a\x1b[2Jb\n\tc\x07\r")) == "a[2Jb\n\tc"


def test_the_summary() -> None:
    assert summary(1, "stop", 0.02, 0.02) == "1 token, the first after 20 ms"
    assert summary(11, "stop", 0.5, 1.5) == "11 tokens, the first after 500 ms, then 10 a second"


@pytest.mark.parametrize(
    ("flags", "flag"),
    [
        ({"url": "127.0.0.1:8000"}, "--url"),
        ({"url": "ftp://x"}, "--url"),
        ({"temperature": 3.0}, "--temperature"),
        ({"top_p": -0.5}, "--top-p"),
        ({"max_tokens": 0}, "--max-tokens"),
        ({"timeout_s": 0.0}, "--timeout-s"),
    ],
)
def test_flags_that_cannot_be_used(flags: dict[str, Any], flag: str) -> None:
    with pytest.raises(OptionRefused, match=flag):
        ChatFlags(**flags)


def test_each_flag_has_help() -> None:
    assert list(CHAT_HELP) == list(ChatFlags.__struct_fields__)
