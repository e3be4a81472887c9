"""The rules that hold for every struct of the wire, and every bound of every field, one case each."""

from collections.abc import Iterator
from typing import Any, get_args

import msgpack  # type: ignore[import-untyped]
import pytest
from msgspec import Struct
from msgspec.inspect import BytesType, DictType, IntType, ListType, StrType, StructType, Type, UnionType

from proto import codec, limits, messages, placing
from proto.basics import Message
from proto.errors import Reason, RemoteError
from proto.messages import MESSAGES, OPTIONAL_MESSAGES, OPTIONAL_TAG_MAX, OPTIONAL_TAG_MIN, AnyMessage, End
from tests.strategies import Path, bounded, least, plain, required, smallest, structure

NAMED = {**vars(placing), **vars(messages)}.values()
STRUCTS = [kind for kind in NAMED if isinstance(kind, type) and hasattr(kind, "__struct_fields__")]
NO_VALUES = (messages.Envelope, messages.Ignored, Struct)
VALUES = [kind for kind in STRUCTS if not issubclass(kind, Message) and kind not in NO_VALUES]


# --- Rules ------------------------------------------------------------------------------------------


def test_every_message_is_in_the_union_and_in_the_list() -> None:
    defined = [kind for kind in STRUCTS if issubclass(kind, Message)]
    assert set(get_args(AnyMessage)) == set(MESSAGES) == set(defined) - {Message}
    assert len(set(MESSAGES)) == len(MESSAGES)


def test_numbers_are_unique_and_fit_in_a_byte() -> None:
    assert len(codec.TAGS) == len(MESSAGES)
    assert all(1 <= tag <= 127 for tag in codec.TAGS)
    optional = [kind for tag, kind in codec.TAGS.items() if OPTIONAL_TAG_MIN <= tag <= OPTIONAL_TAG_MAX]
    assert tuple(optional) == OPTIONAL_MESSAGES


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_the_number_of_a_message_is_the_fourth_byte_of_its_frame(kind: type[Message]) -> None:
    """At most 15 elements and a short sequence: who guards a link can tell the kind without decoding."""
    frame = codec.encode(1, smallest(kind))
    assert frame[3] == kind.__struct_config__.tag
    assert len(kind.__struct_fields__) < 15


@pytest.mark.parametrize("kind", [*MESSAGES, *VALUES], ids=lambda kind: kind.__name__)
def test_structs_can_grow(kind: type[Any]) -> None:
    """Arrays that allow more than they know, with every default behind every field that has none."""
    info = structure(kind)
    assert info.array_like
    assert not info.forbid_unknown_fields
    assert all(field.required for field in info.fields[: required(kind)])


@pytest.mark.parametrize("kind", [*MESSAGES, *VALUES], ids=lambda kind: kind.__name__)
def test_no_field_is_without_a_bound(kind: type[Any]) -> None:
    for field in structure(kind).fields:
        for inner in everything(field.type):
            match inner:
                case IntType():
                    assert inner.ge is not None, f"{field.name} may be negative"
                case StrType() | BytesType() | ListType() | DictType():
                    assert inner.max_length is not None, f"{field.name} may be of any length"


def everything(info: Type) -> Iterator[Type]:
    """A type and all inside it; structs have their own turn."""
    yield info
    match info:
        case ListType():
            yield from everything(info.item_type)
        case DictType():
            yield from everything(info.key_type)
            yield from everything(info.value_type)
        case UnionType():
            for choice in info.types:
                yield from everything(choice)


def test_numbers_that_structs_write_out() -> None:
    assert End(1, 1, 0).reason == Reason.COMPLETE


PLACING = {"Report", "Wish", "Change", "Placement"}


def test_values_are_found() -> None:
    names = {kind.__name__ for kind in VALUES}
    assert names == {"Offer", "Record", "Resume", "Part", "Grant", "Load", "LegName"} | PLACING


# --- Bounds: at each one a frame is taken, one beyond it is refused --------------------------------------


class Case:
    """A bound of one place in one message."""

    def __init__(self, kind: type[Message], path: Path, info: Type, bound: int, low: bool) -> None:
        self.kind = kind
        self.path = path
        self.info = info
        self.bound = bound
        self.low = low

    def __repr__(self) -> str:
        return f"{self.kind.__name__}-{'.'.join(map(str, self.path))}-{type(self.info).__name__}-{self.bound}"

    def frame(self, beyond: int) -> bytes:
        """The message with this place at its bound, or that much beyond it."""
        amount = self.bound - beyond if self.low else self.bound + beyond
        rendering = planted(structure(self.kind), self.path, sized(self.info, amount))
        packed = msgpack.packb([1, rendering], use_bin_type=True)
        assert isinstance(packed, bytes)
        return packed


def sized(info: Type, amount: int) -> Any:
    """A number of this amount, or something of this length."""
    match info:
        case IntType():
            return amount
        case StrType():
            return "é" * amount  # characters are counted, not bytes
        case BytesType():
            return b"x" * amount
        case ListType():
            return [plain(least(info.item_type))] * amount
        case DictType():
            return {str(number): plain(least(info.value_type)) for number in range(amount)}
    raise AssertionError(f"no bounded value for {info}")


def planted(info: Type, path: Path, value: Any) -> Any:
    """The least rendering of a type, but for `value` at the end of `path`."""
    if not path:
        return value
    match info:
        case StructType():
            rendering = plain(smallest(info.cls))
            field = info.fields[path[0] - (0 if info.tag is None else 1)]
            rendering[path[0]] = planted(field.type, path[1:], value)
            return rendering
        case ListType():
            return [planted(info.item_type, path[1:], value)]
        case UnionType():
            holder = next(choice for choice in info.types if isinstance(choice, ListType | StructType))
            return planted(holder, path, value)
    raise AssertionError(f"{path} leads nowhere in {info}")


def cases() -> Iterator[Case]:
    for kind in MESSAGES:
        for path, info in bounded(structure(kind), ()):
            match info:
                case IntType():
                    yield Case(kind, path, info, info.ge or 0, low=True)
                    if info.le is not None:
                        yield Case(kind, path, info, info.le, low=False)
                case StrType() | BytesType() | ListType() | DictType():
                    yield Case(kind, path, info, info.max_length or 0, low=False)


CASES = list(cases())


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_a_bound_is_enforced(case: Case) -> None:
    codec.decode(case.frame(0))
    with pytest.raises(RemoteError) as refused:
        codec.decode(case.frame(1))
    assert refused.value.reason is Reason.MALFORMED


def test_a_number_of_more_than_64_bits_does_not_exist() -> None:
    with pytest.raises(OverflowError):
        msgpack.packb(2**64)
    assert codec.decode(b"\x92\x01\x92\x03\xcf" + b"\xff" * 8)[1] == messages.Ping(2**64 - 1)


PLACES = {
    "PAYLOAD_BYTES_MAX": ("Submit", "payload"),
    "ITEM_BYTES_MAX": ("Part", "items"),
    "STATE_BYTES_MAX": ("Resume", "state"),
    "TOKENS_MAX": ("Submit", "prompt"),
    "TOKEN_ID_MAX": ("Submit", "prompt"),
    "PARTS_MAX": ("Chunk", "parts"),
    "ITEMS_MAX": ("Part", "items"),
    "GRANTS_MAX": ("Credit", "grants"),
    "LEGS_MAX": ("Sync", "legs"),
    "RECORDS_MAX": ("Gossip", "records"),
    "OFFERS_MAX": ("Hello", "offers"),
    "ADDRESSES_MAX": ("Record", "addresses"),
    "FEATURES_MAX": ("Hello", "features"),
    "METADATA_ENTRIES_MAX": ("Submit", "metadata"),
    "POSITION_MAX": ("Submit", "position"),
    "ATTEMPT_MAX": ("Submit", "attempt"),
    "NAME_CHARS_MAX": ("Submit", "endpoint"),
    "TEXT_CHARS_MAX": ("Error", "text"),
    "TRACE_CHARS_MAX": ("Submit", "trace"),
    "ADDRESS_CHARS_MAX": ("Record", "addresses"),
    "BEAT_MS_MIN": ("Hello", "beat_ms"),
    "BEAT_MS_MAX": ("Hello", "beat_ms"),
    "DEADLINE_MS_MAX": ("Submit", "deadline_ms"),
    "RETRY_MS_MAX": ("Reject", "retry_ms"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_limit_is_where_it_is_meant_to_be(name: str) -> None:
    """The cases above take the bounds from the structs; this says that they are the ones of `proto.limits`."""
    struct, field_name = PLACES[name]
    field = next(field for field in structure(getattr(messages, struct)).fields if field.name == field_name)
    found = set()
    for inner in everything(field.type):
        found |= {getattr(inner, bound, None) for bound in ("ge", "le", "max_length")}
    assert getattr(limits, name) in found


@pytest.mark.parametrize("key_chars", [limits.NAME_CHARS_MAX, limits.NAME_CHARS_MAX + 1])
@pytest.mark.parametrize("value_chars", [limits.TEXT_CHARS_MAX, limits.TEXT_CHARS_MAX + 1])
def test_metadata_is_bounded_inside_too(key_chars: int, value_chars: int) -> None:
    fields = plain(smallest(messages.Submit))
    frame = msgpack.packb([1, [*fields[:-4], {"k" * key_chars: "v" * value_chars}]])
    if key_chars > limits.NAME_CHARS_MAX or value_chars > limits.TEXT_CHARS_MAX:
        with pytest.raises(RemoteError):
            codec.decode(frame)
    else:
        codec.decode(frame)
