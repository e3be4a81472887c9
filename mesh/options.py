"""Pure. What a user can set, from where: the single place of flag names, defaults, variables and help.

Strategy: a frozen struct is a list of flags. A field `drain_s` is the flag `--drain-s` and the variable
`WIREMESH_DRAIN_S`; its default says its kind (a tuple repeats, a bool is a switch). A flag wins over a variable, a
variable over the default. Commands add structs of their own, with their name in the variable: `WIREMESH_CALL_POLICY`.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct
from msgspec.structs import fields

from proto import limits

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

PREFIX = "WIREMESH_"
DRAIN_S = 30.0  # what Slurm and Kubernetes give between SIGTERM and SIGKILL
LOG_FORMATS = ("text", "json")

_MESH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # it names files: no slash, no leading dot
_SWITCHES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

S = TypeVar("S", bound=Struct)


class OptionRefused(ValueError):
    """A setting that cannot be used. Its text names the setting and says what would do."""


class Options(Struct, frozen=True):
    """How a process joins a mesh. Every field is a flag of `wiremesh run`, `call` and `nodes`."""

    join: str = "auto"
    mesh: str = "default"
    key: str | None = None
    listen: tuple[str, ...] = ()
    name: str = ""
    log_format: str = "text"
    drain_s: float = DRAIN_S

    def __post_init__(self) -> None:
        _require(_MESH.fullmatch(self.mesh), "mesh", self.mesh, "1 to 64 letters, digits, '.', '_' or '-'")
        _require(_is_name(self.name), "name", self.name, f"at most {limits.NAME_CHARS_MAX} printable characters")
        _require(self.log_format in LOG_FORMATS, "log_format", self.log_format, " or ".join(LOG_FORMATS))
        _require(0 <= self.drain_s < math.inf, "drain_s", self.drain_s, "seconds, 0 or more")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Options":
        """The options that the WIREMESH_* variables set, and the defaults of the others."""
        return collect(cls, {}, environment)


HELP = {
    "join": "how nodes find each other: auto, lan, dir:PATH, slurm, or tcp://HOST:PORT,... (default: auto)",
    "mesh": "the mesh's name; meshes of different names never meet (default: default)",
    "key": "the mesh's key file, as made by 'wiremesh keygen' (default: the one of this mesh, if it exists)",
    "listen": "an address to listen at, may be repeated (default: whatever --join needs)",
    "name": "what people call this node (default: host and process)",
    "log_format": "text or json (default: text)",
    "drain_s": f"how long to wait for running requests when told to leave (default: {DRAIN_S:.0f})",
}


def add_arguments(
    parser: "ArgumentParser",
    kind: type[Struct] = Options,
    texts: Mapping[str, str] = HELP,
    section: str = "",
    only: Collection[str] = (),
) -> None:
    """Give a parser one flag for each field of `kind`, or only for some."""
    for field in fields(kind):
        if not only or field.name in only:
            variable = variable_of(field.name, section)
            _add(parser, field.name, field.default, f"{texts[field.name]} [{variable}]".replace("%", "%%"))


def options_of(arguments: "Namespace", environment: Mapping[str, str]) -> Options:
    """The mesh options of a parsed command line."""
    return collect(Options, vars(arguments), environment)


def collect(kind: type[S], flags: Mapping[str, object], environment: Mapping[str, str], section: str = "") -> S:
    """An instance of `kind`: flags first, then variables, then defaults. Raises OptionRefused."""
    values: dict[str, object] = {}
    for field in fields(kind):
        variable = variable_of(field.name, section)
        if field.name in flags:
            given = flags[field.name]
            values[field.name] = tuple(given) if isinstance(given, list) else given
        elif environment.get(variable):
            values[field.name] = _read(environment[variable], field.default, variable)
    return kind(**values)


def variable_of(name: str, section: str = "") -> str:
    """The environment variable of a field."""
    return PREFIX + (f"{section}_{name}" if section else name).upper()


def flag_of(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def _add(parser: "ArgumentParser", name: str, default: object, text: str) -> None:
    from argparse import SUPPRESS, BooleanOptionalAction  # Only a command line needs it.

    flag = flag_of(name)
    match default:
        case bool():
            parser.add_argument(flag, default=SUPPRESS, action=BooleanOptionalAction, help=text)
        case int() | float():
            parser.add_argument(flag, default=SUPPRESS, type=type(default), metavar="N", help=text)
        case tuple():
            parser.add_argument(flag, default=SUPPRESS, action="append", metavar=name.upper(), help=text)
        case _:
            parser.add_argument(flag, default=SUPPRESS, metavar=name.upper(), help=text)


def _read(text: str, default: object, variable: str) -> object:
    """The value that a variable's text stands for; the default's type says how to read it."""
    match default:
        case bool():
            _require(text.lower() in _SWITCHES, variable, text, "1 or 0")
            return _SWITCHES[text.lower()]
        case int() | float():
            return _number(text, type(default), variable)
        case tuple():
            return tuple(part.strip() for part in text.split(",") if part.strip())
        case _:
            return text


def _number(text: str, kind: type[int] | type[float], variable: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise OptionRefused(f"{variable} is {text!r}: it must be a number") from None


def _is_name(text: str) -> bool:
    return text.isprintable() and len(text) <= limits.NAME_CHARS_MAX


def _require(holds: object, name: str, value: object, wanted: str) -> None:
    if holds:
        return
    setting = name if name.startswith(PREFIX) else f"{flag_of(name)} ({variable_of(name)})"
    raise OptionRefused(f"{setting} is {value!r}: it must be {wanted}")
