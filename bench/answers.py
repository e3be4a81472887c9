"""Pure. What came back for one request, taken apart and checked: nothing that is lost, doubled or out of place passes.

A load generator only keeps bytes and the times at which they came; this runs when its clock has stopped. An answer is
right when its HTTP framing is complete, every event is JSON, exactly one event finishes, `[DONE]` is the last, and the
tokens are as many as were asked for; and, where the text is known beforehand, when it is that text.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

HEAD_END = b"\r\n\r\n"
LINE_END = b"\r\n"
EVENT_END = b"\n\n"
DONE = b"[DONE]"
EXCERPT_CHARS_MAX = 120  # of what is wrong, in a complaint


class Wrong(Exception):
    """An answer that is not what it must be; the words say where."""


class Recording(Struct, gc=False):
    """Bytes of one response, piece by piece, each with the time it came."""

    began: float
    parts: list[bytes]
    times: list[float]
    ended: float = 0.0
    trouble: str = ""  # what the connection did to it
    prompt: str = ""


class Expected(Struct, frozen=True):
    """What the answer must be."""

    tokens: int
    text: str | None = None  # none: nobody knows it
    finish: str = "length"
    stream: bool = True


class Answer(Struct):
    """A right answer."""

    id: str
    text: str
    tokens: int
    arrivals: list[float]  # of each event with text
    prompt_tokens: int
    cached_tokens: int


class Details(Struct):
    """Part of the usage."""

    cached_tokens: int | None = 0


class Usage(Struct):
    """Of a response."""

    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: Details | None = None


class Said(Struct):
    """A message, or the difference that an event makes."""

    content: str | None = None


class Choice(Struct):
    """Of an event or a whole answer, of chats and of completions."""

    finish_reason: str | None = None
    delta: Said | None = None
    message: Said | None = None
    text: str | None = None

    def said(self) -> str:
        """Its text, wherever it stands."""
        spoken = self.delta or self.message
        return (spoken.content if spoken else self.text) or ""


class Body(Struct):
    """An event, or a whole answer."""

    id: str = ""
    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Body).decode


def check(recording: Recording, expected: Expected) -> Answer:
    """The answer, or raises Wrong."""
    if recording.trouble:
        raise Wrong(recording.trouble)
    status, body, pieces = payload(recording)
    if status != 200:
        raise Wrong(f"status {status}: {excerpt(body)}")
    answer = streamed(body, pieces, expected) if expected.stream else whole(body, recording.ended, expected)
    if answer.tokens != expected.tokens:
        raise Wrong(f"{answer.tokens} tokens where {expected.tokens} were asked for")
    if expected.text is not None and answer.text != expected.text:
        raise Wrong(difference(answer.text, expected.text))
    return answer


# --- HTTP ----------------------------------------------------------------------------------------------

Pieces = list[tuple[int, float]]  # (where it ends in the body, when it came), in order


def payload(recording: Recording) -> tuple[int, bytes, Pieces]:
    """The status, the body free of its framing, and when which part of it came."""
    raw = b"".join(recording.parts)
    head, found, _ = raw.partition(HEAD_END)
    if not found:
        raise Wrong("the head of the response is incomplete")
    begin = len(head) + len(HEAD_END)
    ends, end = [], 0
    for part in recording.parts:
        end += len(part)
        ends.append(end)
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" in head.lower():
        return status, *unchunked(raw, begin, ends, recording.times)
    length = content_length(head)
    if length is not None and len(raw) - begin != length:
        raise Wrong(f"{len(raw) - begin} bytes of a body of {length}")
    return status, raw[begin:], [(max(0, end - begin), time) for end, time in zip(ends, recording.times, strict=True)]


def unchunked(raw: bytes, at: int, ends: Sequence[int], times: Sequence[float]) -> tuple[bytes, Pieces]:
    """The body of HTTP chunks; a chunk came when its last byte did."""
    made: list[bytes] = []
    pieces: Pieces = []
    length, part = 0, 0
    while True:
        line = raw.find(LINE_END, at)
        if line < 0:
            raise Wrong("the body ends within a chunk")
        size = int(raw[at:line].split(b";")[0], 16)
        begin = line + len(LINE_END)
        end = begin + size
        if raw[end : end + 2] != LINE_END:
            raise Wrong("the body ends within a chunk")
        at = end + 2
        if not size:
            break
        while ends[part] < end:
            part += 1
        made.append(raw[begin:end])
        length += size
        pieces.append((length, times[part]))
    if at != len(raw):
        raise Wrong("there are bytes behind the last chunk")
    return b"".join(made), pieces


def content_length(head: bytes) -> int | None:
    """Of a response's head, if it says."""
    for line in head.lower().split(LINE_END)[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return None


# --- Events ---------------------------------------------------------------------------------------------


def events(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The data of each event, with where the event ends; comments are skipped."""
    at = 0
    while at < len(body):
        end = body.find(EVENT_END, at)
        if end < 0:
            raise Wrong(f"the stream ends within an event: {excerpt(body[at:])}")
        data = b"\n".join(line[5:].strip() for line in body[at:end].split(b"\n") if line.startswith(b"data:"))
        at = end + len(EVENT_END)
        if data:
            yield at, data


def parsed(data: bytes) -> Body:
    """One event or one body."""
    try:
        body = _decode(data)
    except msgspec.MsgspecError as error:
        raise Wrong(f"no event of a completion: {error}: {excerpt(data)}") from error
    if body.error:
        raise Wrong(f"an error within the stream: {excerpt(data)}")
    return body


def streamed(body: bytes, pieces: Pieces, expected: Expected) -> Answer:
    """A stream's answer."""
    texts: list[str] = []
    arrivals: list[float] = []
    finishes: list[str] = []
    usage: Usage | None = None
    name, piece, done = "", 0, False
    for end, data in events(body):
        if done:
            raise Wrong("there are events behind [DONE]")
        done = data == DONE
        if done:
            continue
        event = parsed(data)
        while pieces[piece][0] < end:
            piece += 1
        if name not in ("", event.id):
            raise Wrong("the id changes within a stream")
        name, usage = event.id, event.usage or usage
        for choice in event.choices:
            text = choice.said()
            if text and finishes:
                raise Wrong("there is text behind the finish")
            if text:
                texts.append(text)
                arrivals.append(pieces[piece][1])
            if choice.finish_reason:
                finishes.append(choice.finish_reason)
    if not done:
        raise Wrong("the stream ends without [DONE]")
    return answered(name, texts, arrivals, finishes, usage, expected)


def whole(body: bytes, ended: float, expected: Expected) -> Answer:
    """The answer of a request that was not streamed."""
    found = parsed(body)
    texts = [choice.said() for choice in found.choices]
    finishes = [choice.finish_reason for choice in found.choices if choice.finish_reason]
    return answered(found.id, texts, [ended], finishes, found.usage, expected)


def answered(
    name: str, texts: list[str], arrivals: list[float], finishes: list[str], usage: Usage | None, expected: Expected
) -> Answer:
    """What both kinds of answers must have."""
    if finishes != [expected.finish]:
        raise Wrong(f"it finishes with {finishes}, not once with {expected.finish!r}")
    if usage is None:
        raise Wrong("it has no usage")
    if len(arrivals) > usage.completion_tokens:
        raise Wrong(f"{len(arrivals)} events with text for {usage.completion_tokens} tokens")
    cached = (usage.prompt_tokens_details or Details()).cached_tokens or 0
    return Answer(name, "".join(texts), usage.completion_tokens, arrivals, usage.prompt_tokens, cached)


# --- Complaints --------------------------------------------------------------------------------------------


def excerpt(data: bytes) -> str:
    """The beginning of it, readable."""
    return repr(data[:EXCERPT_CHARS_MAX])[1:]


def difference(text: str, expected: str) -> str:
    """Where two texts part."""
    at = next((i for i, (ours, theirs) in enumerate(zip(text, expected, strict=False)) if ours != theirs), -1)
    at = min(len(text), len(expected)) if at < 0 else at
    near = slice(max(0, at - 10), at + 20)
    return (
        f"the text is another from character {at} on ({len(text)} characters, {len(expected)} expected): "
        f"{text[near]!r} instead of {expected[near]!r}"
    )
