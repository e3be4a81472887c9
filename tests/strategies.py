"""Messages for tests, made from nothing but the struct definitions: a new message is covered without a line here.

`messages()` is for hypothesis, `smallest` builds one message with every field at its least, `plain` renders a message
as the lists that a msgpack library of another language would see. None of them asks msgspec to encode anything.
"""

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from msgspec import NODEFAULT, Struct
from msgspec.inspect import (
    BoolType,
    BytesType,
    DictType,
    FloatType,
    IntType,
    ListType,
    NoneType,
    StrType,
    StructType,
    Type,
    UnionType,
    type_info,
)

from proto.basics import Message
from proto.messages import MESSAGES

U64_MAX = 2**64 - 1  # what msgpack can hold
LENGTH_MAX = 4  # of lists and texts that hypothesis draws: bounds have a test of their own
EXAMPLE_BYTES_MAX = 64

Path = tuple[int, ...]  # into the nested lists of `plain`


def structure(kind: type[Struct]) -> StructType:
    """What msgspec knows of a struct."""
    info = type_info(kind)
    assert isinstance(info, StructType)
    return info


def values(info: Type) -> st.SearchStrategy[Any]:
    """All values that a field of this type may hold, long ones excepted."""
    match info:
        case IntType():
            return st.integers(info.ge or 0, U64_MAX if info.le is None else info.le)
        case FloatType():
            return st.floats(allow_nan=False)
        case BoolType():
            return st.booleans()
        case NoneType():
            return st.none()
        case StrType():
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=min(LENGTH_MAX, info.max_length or 0))
        case BytesType():
            return st.binary(max_size=min(EXAMPLE_BYTES_MAX, info.max_length or 0))
        case ListType():
            return st.lists(values(info.item_type), max_size=min(LENGTH_MAX, info.max_length or 0))
        case DictType():
            return st.dictionaries(values(info.key_type), values(info.value_type), max_size=LENGTH_MAX)
        case UnionType():
            return st.one_of(*(values(choice) for choice in info.types))
        case StructType():
            return structs(info.cls)
    raise AssertionError(f"no strategy for {info}")


def structs(kind: type[Any]) -> st.SearchStrategy[Any]:
    """All values of a struct."""
    return st.builds(kind, **{field.name: values(field.type) for field in structure(kind).fields})


def messages() -> st.SearchStrategy[Message]:
    """Any message."""
    return st.one_of(*(structs(kind) for kind in MESSAGES))


def least(info: Type) -> Any:
    """The least value of a type: zero or the lower bound, empty, false; nothing where nothing is a choice."""
    match info:
        case IntType():
            return info.ge or 0
        case FloatType():
            return 0.0
        case BoolType():
            return False
        case NoneType():
            return None
        case StrType():
            return ""
        case BytesType():
            return b""
        case ListType():
            return []
        case DictType():
            return {}
        case UnionType():
            return None if any(isinstance(choice, NoneType) for choice in info.types) else least(info.types[0])
        case StructType():
            return smallest(info.cls)
    raise AssertionError(f"no least value for {info}")


def smallest(kind: type[Any]) -> Any:
    """A message or value with every field at its least."""
    return kind(**{field.name: least(field.type) for field in structure(kind).fields})


def plain(value: Any) -> Any:
    """A message as nested lists, as README.md describes it: the number first, then the fields in order."""
    if isinstance(value, Struct):
        tag = value.__struct_config__.tag
        head = [] if tag is None else [tag]
        return head + [plain(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return value


def required(kind: type[Struct]) -> int:
    """How many fields of a struct have no default."""
    return sum(1 for field in structure(kind).fields if field.default is field.default_factory is NODEFAULT)


def bounded(info: Type, path: Path) -> Iterator[tuple[Path, Type]]:
    """Every place below a type that holds a bounded value, with the path to it in a `plain` rendering.

    A list contributes itself and its first item, a union each of its choices, a struct each of its fields.
    """
    match info:
        case IntType() | StrType() | BytesType():
            yield path, info
        case ListType():
            yield path, info
            yield from bounded(info.item_type, (*path, 0))
        case DictType():
            yield path, info
        case UnionType():
            for choice in info.types:
                yield from bounded(choice, path)
        case StructType():
            shift = 0 if info.tag is None else 1
            for number, field in enumerate(info.fields, shift):
                yield from bounded(field.type, (*path, number))
