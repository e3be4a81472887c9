"""The verifier is worth what it notices: here each kind of wrong answer is planted, and must not pass."""

import json
from collections.abc import Callable

import pytest

from bench.answers import Expected, Recording, Wrong, check
from bench.figures import gaps, spread, within

WORDS = [" one", " two", " three", " four", " five"]
EXPECTED = Expected(len(WORDS), "".join(WORDS))
USAGE = {"prompt_tokens": 3, "completion_tokens": len(WORDS), "prompt_tokens_details": {"cached_tokens": 2}}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text: str | None = None, finish: str | None = None, **more: object) -> bytes:
    delta = {} if text is None else {"content": text}
    body = {"id": "chat-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def right() -> list[bytes]:
    """The events of a right answer."""
    usage = b"data: " + json.dumps({"id": "chat-1", "choices": [], "usage": USAGE}).encode() + b"\n\n"
    return [*(event(word) for word in WORDS), event(finish="length"), usage, b"data: [DONE]\n\n"]


def framed(events: list[bytes], head: bytes = HEAD) -> list[bytes]:
    """As a server sends them: each event an HTTP chunk of its own."""
    return [head, *(b"%x\r\n%b\r\n" % (len(event), event) for event in events), b"0\r\n\r\n"]


def recorded(parts: list[bytes]) -> Recording:
    return Recording(0.0, parts, [float(index) for index in range(len(parts))], ended=float(len(parts)))


def test_a_right_stream_passes_and_is_timed() -> None:
    answer = check(recorded(framed(right())), EXPECTED)
    assert (answer.id, answer.text, answer.tokens, answer.prompt_tokens) == ("chat-1", "".join(WORDS), 5, 3)
    assert answer.cached_tokens == 2
    assert answer.arrivals == [1.0, 2.0, 3.0, 4.0, 5.0]  # the head came at 0
    assert gaps(answer) == [1.0] * 4
    assert within(answer, 2.0, 4.0) == 3.0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 10_000])
def test_however_the_bytes_are_cut(size: int) -> None:
    raw = b"".join(framed(right()))
    parts = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert check(recorded(parts), EXPECTED).text == "".join(WORDS)


def test_comments_and_several_events_in_a_chunk_are_no_fault() -> None:
    parts = framed([b": ping\n\n" + b"".join(right()[:3]), *right()[3:]])
    answer = check(recorded(parts), EXPECTED)
    assert answer.arrivals == [1.0, 1.0, 1.0, 2.0, 3.0]


Change = Callable[[list[bytes]], list[bytes]]
PLANTS: dict[str, tuple[Change, str]] = {
    "a lost token": (lambda events: [events[0], *events[2:]], "another from character"),
    "a doubled token": (lambda events: [events[0], *events], "another from character|events with text"),
    "two tokens that changed places": (lambda events: [events[1], events[0], *events[2:]], "another from character 1"),
    "another token": (lambda events: [event(" oni"), *events[1:]], "from character 3"),
    "a token behind the finish": (lambda events: [*events[:6], events[4], *events[6:]], "behind the finish"),
    "no finish": (lambda events: [*events[:5], *events[6:]], "finishes with"),
    "two finishes": (lambda events: [*events[:6], *events[5:]], "finishes with"),
    "another finish": (lambda events: [*events[:5], event(finish="stop"), *events[6:]], "finishes with"),
    "no usage": (lambda events: [*events[:6], events[7]], "no usage"),
    "no [DONE]": (lambda events: events[:-1], "without"),
    "something behind [DONE]": (lambda events: [*events, events[0]], "behind"),
    "two [DONE]": (lambda events: [*events, events[-1]], "behind"),
    "an error within": (lambda events: [*events[:3], event(error={"message": "oh"}), *events[3:]], "an error within"),
    "another id": (lambda events: [*events[:3], events[3].replace(b"chat-1", b"chat-2"), *events[4:]], "id changes"),
    "half an event": (lambda events: [*events[:7], b"data: [DO"], "within an event"),
    "no JSON": (lambda events: [b"data: {oops}\n\n", *events], "no event of a completion"),
}


@pytest.mark.parametrize("name", PLANTS)
def test_notices(name: str) -> None:
    change, complaint = PLANTS[name]
    with pytest.raises(Wrong, match=complaint):
        check(recorded(framed(change(right()))), EXPECTED)


@pytest.mark.parametrize("name", ["a lost token", "a doubled token"])
def test_counts_alone_notice_what_the_usage_says(name: str) -> None:
    """Of a peer whose text nobody knows: more events than tokens, or fewer tokens than were asked for."""
    short = json.dumps(USAGE | {"completion_tokens": 4}).encode()
    events = PLANTS[name][0](right())
    if name == "a lost token":
        events = [event.replace(json.dumps(USAGE).encode(), short) for event in events]
    with pytest.raises(Wrong, match=r"4 tokens where 5|6 events with text for 5"):
        check(recorded(framed(events)), Expected(len(WORDS)))


def test_notices_broken_framing() -> None:
    parts = framed(right())
    for cut, complaint in ((parts[:-1], "within a chunk"), ([*parts, b"x"], "behind the last"), ([HEAD[:20]], "head")):
        with pytest.raises(Wrong, match=complaint):
            check(recorded(cut), EXPECTED)


def test_notices_a_status_and_a_trouble_of_the_connection() -> None:
    with pytest.raises(Wrong, match="status 503: 'no worker'"):
        check(recorded([b"HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\nno worker"]), EXPECTED)
    with pytest.raises(Wrong, match="reset"):
        check(Recording(0.0, framed(right()), [0.0] * 10, trouble="reset by peer"), EXPECTED)


def test_a_whole_answer() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "".join(WORDS)}, "finish_reason": "length"}
    body = json.dumps({"id": "chat-1", "choices": [choice], "usage": USAGE}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    expected = Expected(5, "".join(WORDS), stream=False)
    assert check(recorded([head, body]), expected).arrivals == [2.0]
    with pytest.raises(Wrong, match="bytes of a body"):
        check(recorded([head, body[:-1]]), expected)
    with pytest.raises(Wrong, match="another from character"):
        check(recorded([head, body.replace(b" three", b" threi")]), expected)


def test_a_spread_of_nothing_and_of_many() -> None:
    assert spread([]).count == 0
    found = spread([number / 1000 for number in range(101)])
    assert (found.count, found.p50, found.p99, found.max) == (101, 50.0, 99.0, 100.0)
