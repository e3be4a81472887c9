"""Pure. What endpoints take and give: Python values to bytes, and bytes to values that fit an annotation.

msgspec knows structs, dataclasses, typed dicts and the builtin types. A pydantic model is recognised by its methods, so
that pydantic is never imported here. A type that nobody could check is refused when the endpoint is defined.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_origin, get_type_hints

import msgspec

from proto import limits

ERRORS_MAX = 8  # of a pydantic model; a caller reads the first


class Refused(ValueError):
    """A value does not fit, or cannot be sent. The text says where and what was expected."""


class Undefined(TypeError):
    """An annotation cannot be checked. The text says what would do."""


def _plain(value: Any) -> Any:
    """What msgspec does not know: a pydantic model is sent as the dictionary of its fields."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} cannot be sent: yield builtin types, a msgspec Struct or a dataclass")
    return dump()


def _model(kind: type, value: Any) -> Any:
    """The pydantic model of a value."""
    try:
        return kind.model_validate(value)  # type: ignore[attr-defined]
    except ValueError as error:
        raise ValueError(_listed(error)) from None


def _listed(error: ValueError) -> str:
    """The errors of a pydantic model in one line."""
    details = getattr(error, "errors", None)
    if details is None:
        return str(error)
    found = [f"{'.'.join(str(step) for step in entry['loc']) or 'it'}: {entry['msg']}" for entry in details()]
    more = f"; and {len(found) - ERRORS_MAX} more" if len(found) > ERRORS_MAX else ""
    return "; ".join(found[:ERRORS_MAX]) + more


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def encode(value: Any, bytes_max: int, what: str) -> bytes:
    """The bytes of a value. Raises Refused if it cannot be sent or is too large."""
    try:
        data = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Refused(f"{what} cannot be sent: {error}") from None
    if len(data) > bytes_max:
        raise Refused(f"{what} has {len(data)} bytes, {bytes_max} is the most: send less, or a handle to it")
    return data


def encode_item(item: Any) -> bytes:
    """The bytes of one item of a stream."""
    return encode(item, limits.ITEM_BYTES_MAX, "the item")


def encode_request(request: Any) -> bytes:
    """The bytes of a request."""
    return encode(request, limits.PAYLOAD_BYTES_MAX, "the request")


def encode_state(state: Any) -> bytes:
    """The bytes of a checkpoint."""
    return encode(state, limits.STATE_BYTES_MAX, "the checkpoint")


def decoder(kind: Any, what: str) -> Callable[[bytes], Any]:
    """A function from bytes to values of `kind` that raises Refused. Raises Undefined if `kind` cannot be checked."""
    name = kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)
    try:
        refuse_unknown(msgspec.inspect.type_info(kind))
        decode = msgspec.msgpack.Decoder(kind, dec_hook=_model).decode
    except (TypeError, ValueError, NameError) as error:
        raise Undefined(f"{what}: {name} cannot be checked ({error}): {WANTED}") from None

    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise Refused(f"expects {name}: {error}") from None

    return read


WANTED = "use a msgspec Struct, a dataclass, a TypedDict, a pydantic model or builtin types"


def refuse_unknown(info: msgspec.inspect.Type) -> None:
    """Raise TypeError if a type, or one inside it, is nothing that we could check."""
    waiting: list[msgspec.inspect.Type] = [info]
    seen: list[msgspec.inspect.Type] = []
    while waiting:
        found = waiting.pop()
        if any(found is other for other in seen):
            continue
        seen.append(found)
        if isinstance(found, msgspec.inspect.CustomType) and not hasattr(found.cls, "model_validate"):
            raise TypeError(f"{found.cls.__name__} is an ordinary class")
        waiting += _inside(found)


def _inside(info: Any) -> list[msgspec.inspect.Type]:
    """The types that a type is made of."""
    if not isinstance(info, msgspec.Struct):
        return []
    values = [getattr(info, name) for name in info.__struct_fields__]
    flat = [inner for value in values for inner in (value if isinstance(value, tuple) else (value,))]
    fields = [inner.type for inner in flat if isinstance(inner, msgspec.inspect.Field)]
    return [inner for inner in (*flat, *fields) if isinstance(inner, msgspec.inspect.Type)]


def annotation_of(handler: Callable[..., Any], parameter: str) -> Any:
    """The annotation of a handler's parameter, `Any` without one. Raises Undefined if it cannot be resolved.

    Only this one is looked at: the others may name things that exist for type checkers alone.
    """
    while hasattr(handler, "__wrapped__"):
        handler = handler.__wrapped__
    annotation = getattr(handler, "__annotations__", {}).get(parameter, Any)
    place = SimpleNamespace(__annotations__={parameter: annotation})
    try:
        return get_type_hints(place, getattr(handler, "__globals__", {}), {}, include_extras=True)[parameter]
    except NameError as error:
        text = f"the annotation of {parameter!r} cannot be resolved ({error}): define the type at the top of the module"
        raise Undefined(text) from None
