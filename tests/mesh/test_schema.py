"""What fits an annotation is read as it; what does not is refused with the place and the expectation."""

import dataclasses
import enum
from typing import Any, Literal, TypedDict

import msgspec
import pydantic
import pytest

from mesh import schema
from proto import limits


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Line:
    points: list[Point]
    name: str = "line"


class Options(TypedDict):
    colour: str


class Colour(enum.Enum):
    RED = "red"


class Model(pydantic.BaseModel):
    size: int = pydantic.Field(ge=1)
    inner: list["Model"] = []


class Ordinary:
    pass


GOOD = [
    (Point, {"x": 1}, Point(1)),
    (Line, {"points": [{"x": 1}, {"x": 2, "y": 3}]}, Line([Point(1), Point(2, 3)])),
    (Options, {"colour": "red", "more": 1}, {"colour": "red"}),
    (Model, {"size": 2, "inner": [{"size": 1}]}, Model(size=2, inner=[Model(size=1)])),
    (list[Model], [{"size": 2}], [Model(size=2)]),
    (dict[str, float], {"a": 1}, {"a": 1.0}),
    (int | str, "x", "x"),
    (Literal["a", "b"], "a", "a"),
    (Colour, "red", Colour.RED),
    (bytes, b"\0", b"\0"),
    (type(None), None, None),
    (Any, [1, "a", None, {"k": b"v"}], [1, "a", None, {"k": b"v"}]),
]

BAD = [
    (Point, {}, "expects Point: Object missing required field `x`"),
    (Point, {"x": "1"}, "Expected `int`, got `str` - at `$.x`"),
    (Line, {"points": [{"x": 1}, {"y": 1}]}, "missing required field `x` - at `$.points[1]`"),
    (Options, {}, "missing required field `colour`"),
    (Model, {"size": 0}, "size: Input should be greater than or equal to 1"),
    (list[Model], [{"size": 1}, {"size": "?"}], "at `$[1]`"),
    (list[str], ["a", 1], "expects list[str]: Expected `str`, got `int` - at `$[1]`"),
    (int, None, "Expected `int`, got `None`"),
    (Literal["a", "b"], "c", "Invalid enum value 'c'"),
]


@pytest.mark.parametrize(("kind", "plain", "value"), GOOD)
def test_what_fits_is_read(kind: Any, plain: Any, value: Any) -> None:
    assert schema.decoder(kind, "it")(schema.encode_request(plain)) == value


@pytest.mark.parametrize(("kind", "plain", "value"), [case for case in GOOD if case[0] is not Options])
def test_what_is_sent_is_read_again(kind: Any, plain: Any, value: Any) -> None:
    assert schema.decoder(kind, "it")(schema.encode_request(value)) == value


@pytest.mark.parametrize(("kind", "plain", "said"), BAD)
def test_what_does_not_fit_is_refused_in_words(kind: Any, plain: Any, said: str) -> None:
    with pytest.raises(schema.Refused) as caught:
        schema.decoder(kind, "it")(schema.encode_request(plain))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91" * 5_000, b"\xa5abc", b"\x01\x02"])
@pytest.mark.parametrize("kind", [Any, Point, Model])
def test_bytes_that_are_nothing_are_refused(kind: Any, data: bytes) -> None:
    with pytest.raises(schema.Refused):
        schema.decoder(kind, "it")(data)


def test_a_pydantic_model_with_many_errors_names_a_few() -> None:
    class Wide(pydantic.BaseModel):
        a: int
        b: int
        c: int
        d: int
        e: int
        f: int
        g: int
        h: int
        i: int
        j: int

    with pytest.raises(schema.Refused, match=r"a: Field required; .*; and 2 more"):
        schema.decoder(Wide, "it")(schema.encode_request({}))


@pytest.mark.parametrize("kind", [Ordinary, list[Ordinary], dict[str, list[Ordinary]], int | Ordinary])
def test_a_type_that_nobody_could_check_is_refused_at_once(kind: Any) -> None:
    with pytest.raises(schema.Undefined, match="use a msgspec Struct"):
        schema.decoder(kind, "demo.it")


@pytest.mark.parametrize("value", [object(), {1, object()}, 2**64, float, {"a": Ordinary()}, "\ud800"])
def test_a_value_that_cannot_be_sent_is_refused(value: Any) -> None:
    with pytest.raises(schema.Refused, match="the item cannot be sent"):
        schema.encode_item(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(schema.Refused):
        schema.encode_item(endless)


@pytest.mark.parametrize(
    ("encode", "bytes_max"),
    [
        (schema.encode_item, limits.ITEM_BYTES_MAX),
        (schema.encode_request, limits.PAYLOAD_BYTES_MAX),
        (schema.encode_state, limits.STATE_BYTES_MAX),
    ],
)
def test_each_size_has_its_limit(encode: Any, bytes_max: int) -> None:
    assert len(encode(bytes(bytes_max - 5))) == bytes_max
    with pytest.raises(schema.Refused, match=f"{bytes_max + 1} bytes, {bytes_max} is the most"):
        encode(bytes(bytes_max - 4))


def test_an_annotation_is_found_as_text_and_through_a_wrapper() -> None:
    def handler(request: "Point", context: "NoSuchName") -> "NorThis": ...  # type: ignore[name-defined] # noqa: F821

    def wrapper() -> None: ...

    wrapper.__wrapped__ = handler  # type: ignore[attr-defined]
    assert schema.annotation_of(handler, "request") is Point
    assert schema.annotation_of(wrapper, "request") is Point
    assert schema.annotation_of(lambda request: None, "request") is Any


def test_an_annotation_that_nobody_can_resolve_is_explained() -> None:
    def handler(request: "NoSuchName") -> None: ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(schema.Undefined, match=r"'request' cannot be resolved .*NoSuchName.*top of the module"):
        schema.annotation_of(handler, "request")
