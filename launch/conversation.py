"""Pure. A conversation: what was said, what the model is sent, what the lines of a streamed answer mean."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from launch.flags_chat import UNSET, ChatFlags

DATA = "data:"
END = "[DONE]"
TOO_LONG = "context_length_exceeded"
HELP = """\
/reset         forget the conversation
/model [NAME]  which model answers, and which there are; with a name: talk to that one from now on
/help          this
/quit          leave, as Ctrl-D does
Ctrl-C cancels an answer. Up and down find what you said before."""
COMMANDS = ("/reset", "/model", "/help", "/quit")


class Failure(Exception):
    """The server's words for what went wrong."""

    def __init__(self, text: str, status: int = 0, code: str = "") -> None:
        super().__init__(text)
        self.status = status  # of HTTP; 0: within a stream
        self.code = code


class Piece(Struct, frozen=True):
    """What one event of a stream brings."""

    text: str = ""
    tokens: int = 0  # of the whole answer; in the last piece
    reason: str = ""  # why it ended; in the last but one
    over: bool = False


class Conversation:
    """What was said so far."""

    def __init__(self, flags: ChatFlags, model: str) -> None:
        self.model = model
        self._flags = flags
        self._turns: list[dict[str, str]] = []

    def ask(self, question: str) -> None:
        """The user speaks."""
        self._turns.append({"role": "user", "content": question})

    def answered(self, text: str) -> None:
        """The model has spoken. A turn without an answer is forgotten: templates want both by turns."""
        if text:
            self._turns.append({"role": "assistant", "content": text})
        else:
            self._turns.pop()

    def reset(self) -> None:
        """Forget all of it."""
        self._turns.clear()

    def shorten(self) -> bool:
        """Forget the oldest question and its answer; False if only the last question is left."""
        if len(self._turns) < 3:
            return False
        del self._turns[:2]
        return True

    def body(self) -> bytes:
        """The request for the next answer."""
        flags = self._flags
        system = [{"role": "system", "content": flags.system}] if flags.system else []
        request: dict[str, Any] = {"model": self.model, "messages": [*system, *self._turns], "stream": True}
        for name in ("temperature", "top_p", "max_tokens", "seed"):
            value = getattr(flags, name)
            if value != UNSET:
                request[name] = value
        return msgspec.json.encode({**request, "stream_options": {"include_usage": True}})


def read_event(line: str) -> Piece:
    """What a line of a stream says. Comments and other fields say nothing. Raises Failure."""
    if not line.startswith(DATA):
        return Piece()
    data = line.removeprefix(DATA).strip()
    if data == END:
        return Piece(over=True)
    try:
        event = msgspec.json.decode(data)
        if "error" in event:
            raise Failure(*_error(event["error"]))
        choices = event["choices"]
        choice = choices[0] if choices else {}
        text = (choice.get("delta") or {}).get("content") or ""
        tokens = (event.get("usage") or {}).get("completion_tokens", 0)
        return Piece(text, tokens, choice.get("finish_reason") or "")
    except (msgspec.DecodeError, KeyError, AttributeError, TypeError) as error:
        raise Failure(f"the server sent an event that cannot be read ({error}): {data[:200]}") from None


def read_failure(status: int, body: bytes) -> Failure:
    """What the answer to a refused request says."""
    try:
        text, code = _error(msgspec.json.decode(body)["error"])[::2]
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        text, code = body[:200].decode(errors="replace").strip(), ""
    return Failure(text or f"the server answers {status}", status, code)


def _error(error: Any) -> tuple[str, int, str]:
    return str(error.get("message") or error), 0, str(error.get("code") or "")


def read_models(body: bytes) -> list[str]:
    """The names in the answer of /v1/models. Raises Failure."""
    try:
        return [str(model["id"]) for model in msgspec.json.decode(body)["data"]]
    except (msgspec.DecodeError, KeyError, TypeError):
        raise Failure("what answers there is no frontend: its /v1/models cannot be read") from None


def summary(tokens: int, reason: str, first_s: float, whole_s: float) -> str:
    """One line about an answer."""
    parts = [f"{tokens} token{'s' * (tokens != 1)}"] if tokens else []
    parts.append(f"the first after {first_s * 1000:.0f} ms")
    if tokens > 1 and whole_s > first_s:
        parts.append(f"then {(tokens - 1) / (whole_s - first_s):.0f} a second")
    if reason == "length":
        parts.append("cut off at the longest that was allowed")
    return ", ".join(parts)


def harmless(text: str) -> Iterator[str]:
    """The characters of an answer that a terminal prints and does not obey."""
    return (char for char in text if char.isprintable() or char in "\n\t")
