"""Pure. Bytes to fields to structs, and all that can be wrong with them. The only place that knows msgspec's words.

Strategy: the body is first cut into its fields, undecoded. What is refused or too large never gets decoded, and what is
unknown stays as it came. Any bytes give fields or raise `Bad`, never anything else, and soon: see the limits.
"""

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from nodes.openai import limits, refusals
from nodes.openai.errors import Problem, invalid, too_large, unsupported

Fields = dict[str, msgspec.Raw]
S = TypeVar("S")
K = TypeVar("K", bound=Struct)

_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_any = msgspec.json.Decoder(Any).decode
WRONG = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_DEEP = b"[" * 1024  # unless it is in a text, the decoder refuses this sooner than anybody can count
_PLACE = re.compile(r" - at `(?:key` in `)?\$(?:\.value(?=\W)|\.)?([^`]*)`$")


class Bad(Exception):
    """A request that is refused; caught in `requests.parse`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def fields_of(body: bytes, bytes_max: int = limits.BODY_BYTES_MAX) -> Fields:
    """The top level of a body."""
    if len(body) > bytes_max:
        raise Bad(too_large(bytes_max))
    try:
        if len(body) > limits.CENSUS_BYTES_MIN:
            body = body.lstrip()  # the decoder takes ten times as long for it
            if _DEEP in body:
                _decode_fields(body)
            census(body)
        return _decode_fields(body)
    except msgspec.ValidationError as error:
        raise Bad(invalid("The body must be a JSON object.")) from error
    except WRONG as error:
        raise Bad(unreadable(error)) from error


def unreadable(error: Exception, name: str | None = None) -> Problem:
    """What is no JSON, in words that repeat nothing of it."""
    if isinstance(error, RecursionError):
        return too_deep(name)
    if isinstance(error, UnicodeDecodeError):
        return invalid("The body is not valid UTF-8.", name, "invalid_json")
    return invalid(f"The body is not valid JSON: {error}.", name, "invalid_json")


def too_many(values_max: int, name: str | None = None) -> Problem:
    """More values than a conversation or a batch can need."""
    return invalid(f"More than {values_max} values in one request.", name, "too_many_values")


def too_deep(name: str | None) -> Problem:
    """Lists in lists, or objects in objects, beyond the limit."""
    return invalid(f"The JSON is nested deeper than {limits.DEPTH_MAX} levels.", name, "too_deep")


class Reader(Generic[K]):
    """Reads the fields of one kind of request, but for those `apart`, which are large and read one by one."""

    def __init__(self, kind: type[K], apart: tuple[str, ...], refused: tuple[str, ...]) -> None:
        self._keys = {field.name: f'"{field.name}":'.encode() for field in msgspec.structs.fields(kind)}
        self._apart = frozenset(apart)
        self._known = frozenset((*self._keys, *apart))
        self._refused = frozenset(refused)
        self._decode = msgspec.json.Decoder(kind).decode

    def read(self, body: bytes, fields: Fields) -> tuple[K, Fields]:
        """The struct of all that is known, and the fields that nobody knows."""
        if len(body) <= limits.FIELD_BYTES_MAX and self._known.issuperset(fields):
            return structure(body, self._decode), {}  # as mostly: it steps over those apart by itself
        parts, extra = [], {}
        for name, raw in fields.items():
            if name in self._keys:
                value = bytes(raw)
                if len(value) > limits.FIELD_BYTES_MAX:
                    raise Bad(invalid(f"`{name}` is too long.", name))
                parts.append(self._keys[name] + value)
            elif name in self._refused:
                if refusals.refused(name, bytes(raw)):
                    there = refusals.ELSEWHERE.get(name, "")
                    raise Bad(unsupported(name, f"is for {there}") if there else unsupported(name))
            elif name not in self._apart:
                extra[name] = raw
        if extra:
            check_extra(extra)
        return structure(b"{" + b",".join(parts) + b"}", self._decode), extra


def structure(body: bytes, decode: Callable[[bytes], S]) -> S:
    """A small body as a struct."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise Bad(misfit(str(error))) from error
    except WRONG as error:
        raise Bad(unreadable(error)) from error


def anything(raw: msgspec.Raw, name: str) -> Any:
    """The value of a field as plain lists and dictionaries."""
    try:
        return _decode_any(raw)
    except WRONG as error:
        raise Bad(unreadable(error, name)) from error


class Held(Struct, Generic[S]):
    """A value to be converted: msgspec prepares a struct once, and a bare `list[...]` at every call."""

    value: S


def census(body: bytes) -> None:
    """Raise for more values than the limits, before any is built. Counts quotes first (in a text they stand behind a
    backslash), brackets second, and only where there are many of them looks which of those are within texts."""
    if counted(body, b",", limits.COMMAS_MAX) > limits.COMMAS_MAX:
        raise Bad(too_many(limits.COMMAS_MAX))
    quotes = counted(body, b'"', 2 * limits.VALUES_MAX)
    if quotes > 2 * limits.VALUES_MAX and body.count(b'"') - body.count(b'\\"') > 2 * limits.VALUES_MAX:
        raise Bad(too_many(limits.VALUES_MAX))
    if brackets(body) > limits.VALUES_MAX:
        bare = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
        if brackets(bare) > limits.VALUES_MAX:
            raise Bad(too_many(limits.VALUES_MAX))


def brackets(body: bytes) -> int:
    """How many lists and objects begin, as far as it matters."""
    return counted(body, b"{", limits.VALUES_MAX) + counted(body, b"[", limits.VALUES_MAX)


def counted(body: bytes, byte: bytes, most: int) -> int:
    """How often a byte comes; the counting ends beyond `most`. `count` takes ten times as long where it is rare."""
    total = 0
    for start in range(0, len(body), limits.CENSUS_BYTES_MIN):
        piece = body[start : start + limits.CENSUS_BYTES_MIN]
        total += len(piece) - len(piece.replace(byte, b""))
        if total > most:
            break
    return total


def convert(value: Any, kind: type[Held[S]], name: str) -> S:
    """A decoded value of the field `name`, checked against its type."""
    try:
        return msgspec.convert({"value": value}, kind).value
    except msgspec.ValidationError as error:
        raise Bad(misfit(str(error), name)) from error
    except RecursionError as error:
        raise Bad(too_deep(name)) from error


def misfit(text: str, name: str = "") -> Problem:
    """msgspec's complaint as a problem: the place is the parameter, and values are not repeated."""
    found = _PLACE.search(text)
    words = text[: found.start()] if found else text
    place = found.group(1) if found else ""
    param = name + (f".{place}" if name and place and not place.startswith("[") else place)
    if words.startswith("Object missing required field"):
        missing = words.split("`")[1]
        param = f"{param}.{missing}" if param else missing
        return invalid(f"Missing required parameter: `{param}`.", param, "missing_required_parameter")
    if words.startswith(("Invalid enum value", "Invalid value ")):
        return invalid(f"This value of `{param}` is not supported.", param, "unsupported_value")
    return invalid(f"{words} for `{param}`." if param else f"{words}.", param or None, "invalid_value")


def slight(raw: msgspec.Raw) -> bool:
    """Whether what stands there is too short, and has too few brackets, to be too much for anybody."""
    written = bytes(raw)
    return len(written) <= limits.VALUES_MAX and written.count(b"{") + written.count(b"[") <= limits.DEPTH_MAX


def weigh(value: Any, name: str) -> None:
    """Raise for a value that is nested too deeply or holds too many values for those who will walk it."""
    total, stack = 0, [(value, 1)] if type(value) in (list, dict) else []
    while stack:
        item, depth = stack.pop()
        total += len(item)
        if total > limits.VALUES_MAX:
            raise Bad(too_many(limits.VALUES_MAX, name))
        if depth > limits.DEPTH_MAX:
            raise Bad(too_deep(name))
        inner = item.values() if type(item) is dict else item
        stack += [(child, depth + 1) for child in inner if type(child) in (list, dict)]


def check_extra(extra: Fields) -> None:
    """What is passed on is not understood here, but it is JSON, and bounded."""
    if sum(len(name) + len(bytes(raw)) for name, raw in extra.items()) > limits.EXTRA_BYTES_MAX:
        raise Bad(invalid(f"Unknown parameters hold more than {limits.EXTRA_BYTES_MAX} bytes."))
    for name, raw in extra.items():
        shown = name[: limits.METADATA_KEY_CHARS_MAX]
        weigh(anything(raw, shown), shown)
