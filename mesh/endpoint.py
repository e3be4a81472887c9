"""Shell. One endpoint: a user's handler, and what its signature says about it.

A handler takes the request, perhaps a context, and perhaps `resume`; it is called and looked at only here. What it
gives back may be an async generator, a coroutine, a generator or a value: see `mesh.runner`.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from mesh import schema
from mesh.context import Context
from proto import limits
from proto.messages import Offer

PART = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
NAME_FORM = "letters, digits, '_' or '-', beginning with a letter or '_'"
RESUME = "resume"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Checkpoint(Struct, frozen=True):
    """Yielded by a resumable handler: from here on, `state` is all it takes to go on elsewhere."""

    state: Any


class Endpoint(Struct, frozen=True):
    """A handler that can be called over the mesh."""

    name: str  # namespace.component.endpoint
    handler: Callable[..., Any]
    read: Callable[[bytes], Any]  # from bytes to a request that fits
    takes_context: bool
    resumable: bool
    slots: int

    def offer(self) -> Offer:
        """What the mesh is told."""
        return Offer(self.name, self.resumable, self.slots)

    def call(self, request: Any, context: Context, resume: Any) -> Any:
        """Call the handler with what it takes."""
        arguments = (request, context) if self.takes_context else (request,)
        return self.handler(*arguments, resume=resume) if self.resumable else self.handler(*arguments)


def define(name: str, handler: Callable[..., Any], slots: int = 0) -> Endpoint:
    """The endpoint of a handler. Raises TypeError or ValueError if it cannot be one."""
    if len(name) > limits.NAME_CHARS_MAX:
        raise ValueError(f"{name!r} is too long: {limits.NAME_CHARS_MAX} characters are the most")
    if slots < 0:
        raise ValueError(f"{name}: slots={slots}: it must be 0 (no bound of its own) or more")
    first, takes_context, resumable = _signature(name, handler)
    read = schema.decoder(schema.annotation_of(handler, first), name)
    return Endpoint(name, handler, read, takes_context, resumable, slots)


def _signature(name: str, handler: Callable[..., Any]) -> tuple[str, bool, bool]:
    """The name of its first parameter, whether it takes a context, and whether it can resume."""
    if not callable(handler):
        raise TypeError(f"{name}: {handler!r} is not callable")
    parameters = inspect.signature(handler).parameters
    plain = [key for key, parameter in parameters.items() if parameter.kind in _POSITIONAL and key != RESUME]
    needed = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY and key != RESUME
    ]
    if not 1 <= len(plain) <= 2 or needed:
        given = ", ".join(parameters) or "nothing"
        raise TypeError(f"{name}: a handler takes (request), (request, context), and perhaps 'resume'; not ({given})")
    return plain[0], len(plain) == 2, RESUME in parameters


def check_part(text: str, what: str) -> str:
    """One part of a dotted name. Raises ValueError."""
    if not PART.fullmatch(text):
        raise ValueError(f"{what} {text!r}: it must be {NAME_FORM}")
    return text


def check_name(text: str, parts: tuple[str, ...]) -> str:
    """A dotted name of so many parts. Raises ValueError."""
    found = text.split(".") if isinstance(text, str) else []
    if len(found) != len(parts):
        raise ValueError(f"{text!r} must have {len(parts)} parts: {'.'.join(parts)}")
    for part, what in zip(found, parts, strict=True):
        check_part(part, f"{text!r}: the {what}")
    return text
