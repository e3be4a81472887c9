"""Pure. The figures of a run: from recordings and right answers to rates, times and CPU per token."""

from collections.abc import Sequence
from itertools import pairwise
from math import inf

from msgspec import Struct

from bench.answers import Answer, Recording


class Mark(Struct):
    """Clocks at one border of the window."""

    time: float
    cpu_s: dict[str, float]
    own_s: float
    busy_s: float
    memory_mb: dict[str, float]


class Spread(Struct):
    """Of times, in milliseconds."""

    count: int
    p50: float
    p99: float
    max: float


class Result(Struct, kw_only=True):
    """What was measured."""

    seconds: float
    right: int
    wrong: int
    troubles: dict[str, int]
    tokens_per_s: float
    requests_per_s: float
    tokens_per_event: float
    tokens_per_read: float  # above 1 the server is behind, and writes several events at once
    prompt_tokens: float
    first_ms: Spread
    gap_ms: Spread
    whole_ms: Spread
    cpu_us_per_token: dict[str, float]
    cpu_us_per_request: dict[str, float]
    cores: dict[str, float]  # CPU seconds per second
    memory_mb: dict[str, float]
    own_cores: float
    foreign_cores: float  # used by what is neither we nor measured: the noise


def spread(samples_s: Sequence[float]) -> Spread:
    """Quantiles; zeros of nothing."""
    ordered = sorted(samples_s) or [0.0]
    last = len(ordered) - 1
    p50, p99, largest = (round(ordered[min(last, int(len(ordered) * share))] * 1e3, 3) for share in (0.5, 0.99, 1.0))
    return Spread(len(samples_s), p50, p99, largest)


def result(
    marks: Sequence[Mark], recordings: Sequence[Recording], answers: Sequence[Answer | None], troubles: dict[str, int]
) -> Result:
    """The figures of the window between two marks; an answer that is None was wrong."""
    begin, end = marks
    span = end.time - begin.time
    right = [pair for pair in zip(recordings, answers, strict=True) if pair[1] is not None]
    answered = [answer for _, answer in right if answer is not None]
    tokens = sum(within(answer, begin.time, end.time) for answer in answered)
    ended = sum(begin.time <= recording.ended <= end.time for recording, _ in right)
    begun = [(recording, answer) for recording, answer in right if begin.time <= recording.began <= end.time and answer]
    cpu = {name: end.cpu_s[name] - begin.cpu_s[name] for name in begin.cpu_s}
    own = end.own_s - begin.own_s
    events = sum(len(answer.arrivals) for answer in answered)
    reads = sum(len(dict.fromkeys(answer.arrivals)) for answer in answered)
    return Result(
        seconds=round(span, 3),
        right=len(right),
        wrong=len(answers) - len(right),
        troubles=troubles,
        tokens_per_s=round(tokens / span, 1),
        requests_per_s=round(ended / span, 1),
        tokens_per_event=round(sum(answer.tokens for answer in answered) / max(1, events), 3),
        tokens_per_read=round(sum(answer.tokens for answer in answered) / max(1, reads), 3),
        prompt_tokens=round(sum(answer.prompt_tokens for answer in answered) / max(1, len(answered)), 1),
        first_ms=spread([answer.arrivals[0] - recording.began for recording, answer in begun if answer.arrivals]),
        gap_ms=spread([gap for answer in answered for gap in gaps(answer, begin.time, end.time)]),
        whole_ms=spread([recording.ended - recording.began for recording, _ in begun]),
        cpu_us_per_token={name: round(used / tokens * 1e6, 3) if tokens else 0.0 for name, used in cpu.items()},
        cpu_us_per_request={name: round(used / ended * 1e6, 1) if ended else 0.0 for name, used in cpu.items()},
        cores={name: round(used / span, 3) for name, used in cpu.items()},
        memory_mb=end.memory_mb,
        own_cores=round(own / span, 3),
        foreign_cores=round((end.busy_s - begin.busy_s - own - sum(cpu.values())) / span, 3),
    )


def within(answer: Answer, begin: float, end: float) -> float:
    """How many of its tokens came between; the tokens of an answer are shared evenly among its events."""
    inside = sum(begin <= arrival <= end for arrival in answer.arrivals)
    return answer.tokens * inside / len(answer.arrivals) if inside else 0.0


def gaps(answer: Answer, begin: float = -inf, end: float = inf) -> list[float]:
    """Between its events with text; those that ended between `begin` and `end`."""
    pairs = pairwise(answer.arrivals)
    return [after - before for before, after in pairs if begin <= after <= end]
