"""The tables of proto/README.md against the code: who implements from the page must meet who runs the code."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
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
)

import proto
from proto import limits, messages, placing
from proto.errors import Reason
from proto.messages import (
    HOLDER_MESSAGES,
    MESSAGES,
    OPTIONAL_MESSAGES,
    OPTIONAL_TAG_MAX,
    OPTIONAL_TAG_MIN,
    OWNER_MESSAGES,
    PLACING_MESSAGES,
    Role,
    Sync,
)
from proto.request import HOLDER, OWNER, Leg, Verb
from proto.rights import may_send
from proto.session import PEER, Sign, State
from tests.strategies import structure

TEXT = (Path(str(proto.__file__)).parent / "README.md").read_text()
Rows = list[list[str]]


class Section(NamedTuple):
    """A heading and the first table under it."""

    title: str
    above: str  # the heading of the level above
    header: list[str]
    rows: Rows


def sections() -> list[Section]:
    """Every table, by the heading it stands under."""
    found: list[Section] = []
    title, above, table = "", "", []
    for line in [*TEXT.splitlines(), "#"]:
        if line.startswith("|"):
            table.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
            continue
        if table:
            found.append(Section(title, above, table[0], table[2:]))
            table = []
        if line.startswith("#"):
            title = line.lstrip("# ")
            above = title if line.startswith("### ") else above
    return found


SECTIONS = sections()


def table(title: str) -> Section:
    """The one table under a heading."""
    (section,) = (section for section in SECTIONS if section.title == title)
    return section


# --- Messages ---------------------------------------------------------------------------------------

HEADING = re.compile(r"(?P<tag>\d+) (?P<name>[A-Z]\w+) \((?P<source>\w+) → (?P<target>\w+)\)")
FIELDS = ["#", "field", "type", "meaning"]
DESCRIBED = {match["name"]: (match, section) for section in SECTIONS if (match := HEADING.fullmatch(section.title))}
VALUES = {section.title.split()[1]: section for section in SECTIONS if section.title.startswith("Value: ")}


def test_every_message_is_described_in_the_order_of_its_number() -> None:
    assert list(DESCRIBED) == [kind.__name__ for kind in MESSAGES_BY_TAG]
    assert [int(match["tag"]) for match, _ in DESCRIBED.values()] == [tag_of(kind) for kind in MESSAGES_BY_TAG]


def tag_of(kind: type[Any]) -> int:
    return int(kind.__struct_config__.tag)


MESSAGES_BY_TAG = sorted(MESSAGES, key=tag_of)


PLACING = {
    **dict.fromkeys(("Place", "Settled"), ("owner", "router")),
    **dict.fromkeys(("Placed", "Parked"), ("router", "owner")),
    **dict.fromkeys(("Blocks", "Cut", "Piece"), ("holder", "router")),
    **dict.fromkeys(("Replay", "Copy"), ("router", "holder")),
    "Routed": ("router", "router"),
}


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_the_direction_of_a_message(kind: type[Any]) -> None:
    match, section = DESCRIBED[kind.__name__]
    direction = match["source"], match["target"]
    if kind in OWNER_MESSAGES:
        assert direction == ("owner", "holder")
    elif kind in HOLDER_MESSAGES or kind is Sync:
        assert direction == ("holder", "owner")
    elif kind in PLACING_MESSAGES:
        assert direction == PLACING[kind.__name__]
    else:
        assert direction == ("both", "both")
    assert section.above.startswith("Optional" if kind in OPTIONAL_MESSAGES else ("Session", "Request", "Placing"))
    assert ("critical" in section.above) == (tag_of(kind) < OPTIONAL_TAG_MIN)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_who_may_send_a_message(kind: type[Any]) -> None:
    """Its section says any role, or its direction and the table of roles say which."""
    match, section = DESCRIBED[kind.__name__]
    everybody = "any role" in section.above
    roles = table("Roles").rows
    for role, (name, sends) in zip(Role, roles, strict=True):
        assert name == f"{int(role)} {role.name.lower()}"
        sides, _, extra = sends.partition(", and ")
        side = "both" if sides == "both" else {"what owners send": "owner", "what holders send": "holder"}[sides]
        usual = kind not in PLACING_MESSAGES and side in ("both", match["source"])
        assert may_send(role, kind) == (everybody or usual or kind.__name__ in extra.split(", "))


@pytest.mark.parametrize(
    ("kind", "section"),
    [(kind, DESCRIBED[kind.__name__][1]) for kind in MESSAGES if kind.__name__ in DESCRIBED]
    + [(getattr(messages, name, None) or getattr(placing, name), section) for name, section in VALUES.items()],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_fields_of_a_struct(kind: type[Any], section: Section) -> None:
    assert section.header == FIELDS
    fields = structure(kind).fields
    assert [row[0] for row in section.rows] == [str(number) for number in range(len(fields))]
    assert [row[1] for row in section.rows] == [field.name for field in fields]
    assert [";" in row[2] for row in section.rows] == [not field.required for field in fields], "optional"
    assert all(row[3] for row in section.rows)


def test_every_value_is_described() -> None:
    inside = {
        info.cls.__name__ for kind in MESSAGES for field in structure(kind).fields for info in structs(field.type)
    }
    assert set(VALUES) == inside


def structs(info: Type) -> list[StructType]:
    """All structs in a type, however deep."""
    match info:
        case StructType():
            return [info, *(inner for field in info.fields for inner in structs(field.type))]
        case ListType():
            return structs(info.item_type)
        case UnionType():
            return [inner for choice in info.types for inner in structs(choice)]
    return []


NAMES = {
    (IntType, 2**16 - 1): "u16",
    (IntType, 2**32 - 1): "u32",
    (IntType, None): "u64",
    (IntType, limits.DEADLINE_MS_MAX): "ms",
    (IntType, limits.RETRY_MS_MAX): "ms",
    (IntType, limits.BEAT_MS_MAX): "ms",
    (StrType, limits.NAME_CHARS_MAX): "name",
    (StrType, limits.TEXT_CHARS_MAX): "text",
    (StrType, limits.TRACE_CHARS_MAX): "trace",
    (BytesType, limits.PAYLOAD_BYTES_MAX): "payload",
    (BytesType, limits.ITEM_BYTES_MAX): "item",
    (BytesType, limits.HANDLE_BYTES_MAX): "handle",
}
SAME_BOUND = {"position": "u32", "attempt": "u16", "address": "name", "state": "item"}  # two words for one bound


def spelled(info: Type) -> str:
    """The type of a field as the page spells it, words of equal bounds being one."""
    match info:
        case BoolType():
            return "bool"
        case FloatType():
            return "float"
        case IntType():
            if (info.ge or 0) < 0:
                return f"int, {info.ge} to {info.le}"
            return NAMES.get((IntType, info.le), f"int, at most {info.le}")
        case StrType() | BytesType():
            plain = "str" if isinstance(info, StrType) else "bytes"
            return NAMES.get((type(info), info.max_length), f"{plain}, at most {info.max_length}")
        case ListType():
            return f"[{spelled(info.item_type)}]"
        case DictType():
            return f"{{{spelled(info.key_type)}: {spelled(info.value_type)}}}"
        case StructType():
            return str(info.cls.__name__)
        case UnionType():
            if {type(choice) for choice in info.types} == {ListType, BytesType}:
                return "tokens"
            some = next(choice for choice in info.types if not isinstance(choice, NoneType))
            return f"{spelled(some)} or nil"
    raise AssertionError(f"no word for {info}")


@pytest.mark.parametrize(
    ("kind", "section"),
    [(kind, DESCRIBED[kind.__name__][1]) for kind in MESSAGES if kind.__name__ in DESCRIBED]
    + [(getattr(messages, name, None) or getattr(placing, name), section) for name, section in VALUES.items()],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_types_of_the_fields(kind: type[Any], section: Section) -> None:
    for row, field in zip(section.rows, structure(kind).fields, strict=True):
        word = re.sub(r"\w+", lambda found: SAME_BOUND.get(found[0], found[0]), row[2].split(";")[0])
        assert word == spelled(field.type), row


# --- Tables -----------------------------------------------------------------------------------------


def test_reasons() -> None:
    section = table("Reasons")
    assert section.header == ["number", "reason", "meaning"]
    assert [(int(number), name) for number, name, _ in section.rows] == [(int(it), it.label) for it in Reason]
    assert all(meaning for _, _, meaning in section.rows)


def test_limits() -> None:
    section = table("Limits")
    assert section.header == ["limit", "value", "reason"]
    ours = {name: value for name, value in vars(limits).items() if name.isupper() and name not in ("KIB", "MIB")}
    assert {name: float(value) for name, value, _ in section.rows} == ours
    assert [row[0] for row in section.rows] == list(ours)
    assert all(row[2] for row in section.rows)


@pytest.mark.parametrize(("title", "rows"), [("Owner table", OWNER), ("Holder table", HOLDER)])
def test_the_lifecycle_tables(title: str, rows: dict[tuple[Leg, Verb], Leg]) -> None:
    section = table(title)
    assert section.header == ["state", "verb", "after"]
    assert section.rows == [[state.value, verb.value, after.value] for (state, verb), after in rows.items()]


def test_the_peer_table() -> None:
    section = table("Peer table")
    assert section.header == ["state", "sign", "after"]
    rows: dict[tuple[State, Sign], State] = PEER
    assert section.rows == [[state.value, sign.value, after.value] for (state, sign), after in rows.items()]


def test_numbers_in_the_prose() -> None:
    assert f"Tags {OPTIONAL_TAG_MIN} to {OPTIONAL_TAG_MAX} may be ignored" in TEXT
    assert f"fewer than {limits.TOKENS_PACKED_MIN} elements" in TEXT
    assert f"at most {limits.HELLO_BYTES_MAX // limits.KIB} KiB" in TEXT
    assert (
        f"0 and {round(limits.BACKOFF_BASE_S * 1000)} ms doubled per failure, at most {limits.BACKOFF_MAX_S:g} s"
        in TEXT
    )
    assert f"{limits.STRANGERS_MAX:,} connections" in TEXT
    assert limits.STRIKES_MAX == 3 and "three strikes" in TEXT
