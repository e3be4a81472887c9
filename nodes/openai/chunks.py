"""Pure. Streams: the events of one choice, each the constant part of its JSON around an encoded string.

The hot path is `Chunks.text`: one join of three pieces. Events are `data: {...}` and two line feeds, nothing else in
them, unless ids are asked for: several clients take an event that does not begin with `data: ` for broken.
"""

from collections.abc import Sequence

import msgspec

from nodes.openai.logprobs import chat_logprobs, completion_logprobs
from nodes.openai.responses import ROLE, Answer, Usage
from nodes.text.stream import Entry

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"  # keeps connections open while a request waits
HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_encode = msgspec.json.Encoder().encode
_EMPTY = b"{}"


class Chunks:
    """Writes the events of one choice of one request."""

    __slots__ = ("_answer", "_begin", "_chat", "_id_prefix", "_usage", "after", "before", "head", "opened")

    def __init__(self, answer: Answer, index: int = 0, id_prefix: str = "") -> None:
        demand = answer.demand
        self._answer = answer
        self._chat = demand.chat is not None
        self._usage = b',"usage":null' if demand.usage else b""
        self._id_prefix = id_prefix
        self.opened = not self._chat
        self.head = b"data: " + head(answer)
        end = b',"logprobs":null,"finish_reason":null}]' + self._usage + b"}\n\n"
        if self._chat:
            self._begin = b'%b"choices":[{"index":%d,"delta":' % (self.head, index)
            self.before, self.after = self._begin + b'{"content":', b"}" + end
        else:
            self.before = self._begin = b'%b"choices":[{"index":%d,"text":' % (self.head, index)
            self.after = end

    def text(self, text: str, position: int = -1) -> bytes:
        """More text. The first event of a chat also says whose it is."""
        if not self.opened or position >= 0:
            return self.event(text, position=position)
        return b"".join((self.before, _encode(text), self.after))

    def texts(self, texts: Sequence[str]) -> list[bytes]:
        """An event for each text that is not empty."""
        if not self.opened:
            return [self.text(text) for text in texts if text]
        before, after, encode = self.before, self.after, _encode
        return [before + encode(text) + after for text in texts if text]

    def joined(self, texts: Sequence[str]) -> bytes:
        """The same in one piece; not for the first."""
        before, after, encode = self.before, self.after, _encode
        if len(texts) == 1:
            text = texts[0]
            return before + encode(text) + after if text else b""
        return b"".join([before + encode(text) + after for text in texts if text])

    def opening(self) -> bytes:
        """The role alone, where something must be said before there is text."""
        return self.event("")

    def event(
        self,
        text: str,
        entries: Sequence[Entry] | None = None,
        reason: str | None = None,
        usage: Usage | None = None,
        position: int = -1,
    ) -> bytes:
        """Any event: with log-probabilities, a reason to finish, the usage so far, an id of its own."""
        logprobs = b"null" if entries is None else self._logprobs(entries)
        counted = self._usage if usage is None else b',"usage":' + _encode(usage)
        end = (b',"logprobs":', logprobs, b',"finish_reason":', _encode(reason), b"}]", counted, b"}\n\n")
        event = b"".join((self._begin, self._delta(text, reason), *end))
        return event if position < 0 else b"id: %b%d\n%b" % (self._id_prefix.encode(), position, event)

    def _delta(self, text: str, reason: str | None) -> bytes:
        """The text of a completion, or the difference that a chat's event makes."""
        if not self._chat:
            return _encode(text)
        if not self.opened:
            self.opened = True
            return _encode({"role": ROLE, "content": text})
        return _EMPTY if reason is not None and not text else _encode({"content": text})

    def _logprobs(self, entries: Sequence[Entry]) -> bytes:
        demand = self._answer.demand
        if demand.logprobs < 0:
            return b"null"
        if self._chat:
            return _encode(chat_logprobs(entries, demand.numbered))
        return _encode(completion_logprobs(entries, demand.logprobs, demand.numbered))

    def tally(self, usage: Usage) -> bytes:
        """The usage of the whole request, in an event with no choices; only for a client that asked for it."""
        assert self._usage
        return b'%b"choices":[],"usage":%b}\n\n' % (self.head, _encode(usage))

    def last(self, reason: str, text: str = "", entries: Sequence[Entry] | None = None, position: int = -1) -> bytes:
        """The choice's last event."""
        assert reason, "a choice ends for a reason"
        return self.event(text, entries, reason, position=position)


def head(answer: Answer) -> bytes:
    """What all events of a request begin with, up to its choices."""
    demand = answer.demand
    named = {
        "id": answer.id,
        "object": "chat.completion.chunk" if demand.chat is not None else "text_completion",
        "created": answer.created,
        "model": demand.model,
    }
    if demand.chat is not None and demand.service_tier is not None:
        named["service_tier"] = demand.service_tier
    if answer.fingerprint is not None:
        named["system_fingerprint"] = answer.fingerprint
    return _encode(named)[:-1] + b","
