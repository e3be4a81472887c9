"""One mechanism for flags, variables and defaults."""

from argparse import ArgumentParser

import pytest
from msgspec import Struct
from msgspec.structs import fields

from mesh.options import HELP, OptionRefused, Options, add_arguments, collect, flag_of, options_of, variable_of

SAMPLES = {
    "join": "dir:/data/here",
    "mesh": "blue",
    "key": "blue.key",
    "listen": "tcp://127.0.0.1:1,tcp://127.0.0.1:2",
    "name": "left",
    "log_format": "json",
    "drain_s": "2.5",
}
VALUES = SAMPLES | {"listen": ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"), "drain_s": 2.5}


def parse(words: list[str], environment: dict[str, str]) -> Options:
    parser = ArgumentParser()
    add_arguments(parser)
    return options_of(parser.parse_args(words), environment)


def words_of(name: str) -> list[str]:
    parts = SAMPLES[name].split(",")
    return [word for part in parts for word in (flag_of(name), part)]


def test_samples_and_help_cover_every_option() -> None:
    assert list(SAMPLES) == list(HELP) == [field.name for field in fields(Options)]


def test_defaults() -> None:
    assert parse([], {}) == Options.from_environment({}) == Options()


@pytest.mark.parametrize("name", SAMPLES)
def test_every_option_has_a_flag(name: str) -> None:
    assert getattr(parse(words_of(name), {}), name) == VALUES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_every_option_has_a_variable(name: str) -> None:
    environment = {variable_of(name): SAMPLES[name]}
    assert getattr(parse([], environment), name) == VALUES[name]
    assert getattr(Options.from_environment(environment), name) == VALUES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_flag_wins_over_a_variable(name: str) -> None:
    assert getattr(parse(words_of(name), {variable_of(name): "0"}), name) == VALUES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_an_empty_variable_is_none(name: str) -> None:
    assert Options.from_environment({variable_of(name): ""}) == Options()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WIREMESH_MESH": "../up"}, "--mesh (WIREMESH_MESH) is '../up'"),
        ({"WIREMESH_MESH": "a" * 65}, "1 to 64 letters"),
        ({"WIREMESH_NAME": "two\nlines"}, "printable"),
        ({"WIREMESH_LOG_FORMAT": "xml"}, "text or json"),
        ({"WIREMESH_DRAIN_S": "soon"}, "WIREMESH_DRAIN_S is 'soon': it must be a number"),
        ({"WIREMESH_DRAIN_S": "-1"}, "0 or more"),
        ({"WIREMESH_DRAIN_S": "nan"}, "0 or more"),
        ({"WIREMESH_DRAIN_S": "inf"}, "0 or more"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name(environment: dict[str, str], said: str) -> None:
    with pytest.raises(OptionRefused) as refusal:
        Options.from_environment(environment)
    assert said in str(refusal.value)


class Sample(Struct, frozen=True):
    fast: bool = False
    count: int = 3


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("on", True), ("TRUE", True), ("0", False), ("no", False), ("", False)]
)
def test_a_switch_in_a_variable(text: str, value: bool) -> None:
    assert collect(Sample, {}, {"WIREMESH_CALL_FAST": text}, "call").fast is value


def test_a_switch_that_is_neither_on_nor_off() -> None:
    with pytest.raises(OptionRefused, match="WIREMESH_FAST is 'perhaps'"):
        collect(Sample, {}, {"WIREMESH_FAST": "perhaps"})


def test_a_switch_can_be_turned_off_by_its_flag() -> None:
    parser = ArgumentParser()
    add_arguments(parser, Sample, {"fast": "be fast", "count": "how many"}, "call")
    flags = vars(parser.parse_args(["--no-fast", "--count", "5"]))
    assert collect(Sample, flags, {"WIREMESH_CALL_FAST": "1"}, "call") == Sample(fast=False, count=5)


def test_help_names_the_variable() -> None:
    parser = ArgumentParser()
    add_arguments(parser)
    text = parser.format_help()
    assert all(variable_of(name) in "".join(text.split()) for name in SAMPLES)
