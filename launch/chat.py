"""Shell. `wiremesh chat`: talk to a model that a frontend serves, from a terminal or a pipe."""

import argparse
import http.client
import os
import signal
import ssl
import sys
import time
from collections.abc import Generator
from contextlib import closing, suppress
from urllib.parse import urlsplit

from launch.codes import Complaint, Exit
from launch.conversation import (
    COMMANDS,
    HELP,
    TOO_LONG,
    Conversation,
    Failure,
    harmless,
    read_event,
    read_failure,
    read_models,
    summary,
)
from launch.flags_chat import ChatFlags
from mesh.options import collect

CONNECT_S = 5.0
LINE_BYTES_MAX = 1 << 20  # of a stream
ANSWER_BYTES_MAX = 1 << 20  # of anything that is no stream
PROMPT = "> "
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def main(arguments: argparse.Namespace) -> int:
    """Answer one question, or talk until the user leaves; returns the exit code."""
    flags = collect(ChatFlags, vars(arguments), os.environ, "chat")
    server = Server(flags)
    question = " ".join(arguments.prompt)
    try:
        if question and question != "-":
            return _once(server, flags, question)
        if question or not sys.stdin.isatty():
            return _once(server, flags, sys.stdin.read().strip())
        return Talk(server, flags).run()
    except Failure as error:
        raise Complaint(_code(error), str(error)) from None


def _once(server: "Server", flags: ChatFlags, question: str) -> int:
    if not question:
        raise Complaint(Exit.USAGE, "there is no question: give it as an argument or on the standard input")
    conversation = Conversation(flags, flags.model or server.first_model())
    conversation.ask(question)
    last = ""
    with closing(server.answer(conversation.body())) as pieces:
        for text in pieces:
            last = _print(text) or last
    if not last.endswith("\n"):
        print()
    return Exit.OK


def _code(failure: Failure) -> Exit:
    match failure.status:
        case 401 | 403:
            return Exit.KEY
        case 429 | 502 | 503 | 504:
            return Exit.UNAVAILABLE
    return Exit.FAILED


def _print(text: str) -> str:
    """Print a part of an answer at once."""
    shown = "".join(harmless(text))
    print(shown, end="", flush=True)
    return shown


# --- The server -------------------------------------------------------------------------------------------


class Server:
    """One frontend. Each request has a connection of its own, so that to close it cancels the request."""

    def __init__(self, flags: ChatFlags) -> None:
        parts = urlsplit(flags.url)
        self._flags = flags
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._place = parts.netloc.rpartition("@")[2]
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json", "accept": "text/event-stream, application/json"}
        if flags.api_key:
            self._headers["authorization"] = f"Bearer {flags.api_key}"
        self.tokens, self.reason = 0, ""  # of the last answer

    def models(self) -> list[str]:
        """The models that are served."""
        with closing(self._connect()) as connection, closing(self._ask(connection, "GET", "/v1/models")) as response:
            return read_models(response.read(ANSWER_BYTES_MAX))

    def first_model(self) -> str:
        """The model that is talked to when none was chosen. Raises Failure."""
        models = self.models()
        if not models:
            raise Failure(f"no model is served at {self._flags.url} yet: is a worker there?", 503)
        return models[0]

    def answer(self, body: bytes) -> Generator[str, None, None]:
        """The parts of an answer as they come. Raises Failure."""
        self.tokens, self.reason = 0, ""
        path = "/v1/chat/completions"
        with closing(self._connect()) as connection, closing(self._ask(connection, "POST", path, body)) as response:
            try:
                while line := response.readline(LINE_BYTES_MAX):
                    piece = read_event(line.decode(errors="replace").rstrip("\r\n"))
                    self.tokens, self.reason = piece.tokens or self.tokens, piece.reason or self.reason
                    if piece.over:
                        return
                    if piece.text:
                        yield piece.text
            except TimeoutError:
                raise Failure(f"nothing came for {self._flags.timeout_s:g} s (see --timeout-s)") from None
            except (OSError, http.client.HTTPException) as error:
                raise Failure(f"the connection to {self._flags.url} was lost: {_words(error)}") from None
        raise Failure(f"the answer ended too early: {self._flags.url} closed the connection")

    def _connect(self) -> http.client.HTTPConnection:
        try:
            connection = self._kind(self._place, timeout=CONNECT_S)
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            cure = "set SSL_CERT_FILE to the certificate that signed it"
            text = f"the certificate of {self._flags.url} is not trusted ({_words(error)}): {cure}"
            raise Complaint(Exit.UNAVAILABLE, text) from None
        except (OSError, http.client.InvalidURL) as error:
            cure = "start a mesh with 'wiremesh up', or name its frontend with --url"
            what = "nothing listens at" if isinstance(error, ConnectionRefusedError) else "cannot connect to"
            text = f"{what} {self._flags.url} ({_words(error)}): {cure}"
            raise Complaint(Exit.UNAVAILABLE, text) from None
        connection.sock.settimeout(self._flags.timeout_s)
        return connection

    def _ask(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, self._base + path, body, self._headers)
            response = connection.getresponse()
            if response.status != http.client.OK:
                with closing(response):
                    raise read_failure(response.status, response.read(ANSWER_BYTES_MAX))
        except TimeoutError:
            raise Failure(f"no answer within {self._flags.timeout_s:g} s (see --timeout-s)", 504) from None
        except (OSError, http.client.HTTPException) as error:
            raise Failure(f"{self._flags.url} does not answer as a frontend does: {_words(error)}") from None
        return response


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


# --- The conversation -------------------------------------------------------------------------------------


class Talk:
    """A conversation on a terminal."""

    def __init__(self, server: Server, flags: ChatFlags) -> None:
        self._server = server
        self._conversation = Conversation(flags, flags.model or server.first_model())
        self._dim, self._plain = (DIM, PLAIN) if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")

    def run(self) -> int:
        """Until the user leaves."""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
        with suppress(ImportError):
            import readline  # noqa: F401  # To import it gives input() its editing and its history.
        self._note(f"{self._conversation.model}: /help tells what else there is, Ctrl-D leaves")
        while True:
            try:
                line = input(PROMPT).strip()
            except EOFError:
                print()
                return Exit.OK
            except KeyboardInterrupt:
                print()
                self._note("Ctrl-D leaves")
                continue
            if line in ("/quit", "/exit"):
                return Exit.OK
            try:
                self._take(line)
            except (Failure, Complaint) as error:
                self._note(str(error))
            except KeyboardInterrupt:
                print()
                self._note("cancelled")

    def _take(self, line: str) -> None:
        """One line of the user."""
        command, _, rest = line.partition(" ")
        match command:
            case "":
                return
            case "/help":
                print(HELP)
            case "/reset":
                self._conversation.reset()
                self._note("forgotten")
            case "/model":
                self._choose(rest.strip())
            case _ if command.startswith("/"):
                self._note(f"there is no {command}: there are {', '.join(COMMANDS)}")
            case _:
                self._answer(line)

    def _choose(self, name: str) -> None:
        models = self._server.models()
        if name and name not in models:
            self._note(f"no model {name!r} is served: there are {', '.join(models) or 'none'}")
            return
        self._conversation.model = name or self._conversation.model
        self._note(f"{self._conversation.model} answers; there are {', '.join(models)}")

    def _answer(self, question: str) -> None:
        """Print the answer to a question as it comes; what came of it is remembered, also when it was cancelled."""
        conversation = self._conversation
        conversation.ask(question)
        parts: list[str] = []
        begin, first = time.monotonic(), 0.0
        try:
            with closing(self._pieces()) as pieces:
                for text in pieces:
                    first = first or time.monotonic() - begin
                    parts.append(text)
                    _print(text)
            print()
            self._note(summary(self._server.tokens, self._server.reason, first, time.monotonic() - begin))
        finally:
            conversation.answered("".join(parts))

    def _pieces(self) -> Generator[str, None, None]:
        """The answer; a conversation that has become too long for the model loses its beginning."""
        while True:
            try:
                yield from self._server.answer(self._conversation.body())
                return
            except Failure as error:
                if error.code != TOO_LONG or not self._conversation.shorten():
                    raise
                self._note("the conversation is longer than the model can hold: its beginning is forgotten")

    def _note(self, text: str) -> None:
        print(f"{self._dim}({text}){self._plain}", flush=True)
