"""Which node somebody means."""

import pytest

from nodes.names import endpoint_of, is_model, model_of
from nodes.whom import Nobody, Seen, Several, choose, is_certain

LEFT = Seen(0xABC0000000000001, "left")
RIGHT = Seen(0xABC0000000000002, "right")
TWIN = Seen(0xDEF0000000000003, "right")
ALL = [LEFT, RIGHT, TWIN]


@pytest.mark.parametrize(
    ("wanted", "seen", "node"),
    [
        ("left", ALL, LEFT),
        ("abc0000000000002", ALL, RIGHT),
        ("def", ALL, TWIN),
        ("def0", ALL, TWIN),
        ("right", [LEFT, RIGHT], RIGHT),
        ("worker-1", [LEFT, Seen(1, "worker-1@box-7"), Seen(2, "worker-12@box-7")], Seen(1, "worker-1@box-7")),
        ("worker-1", [Seen(1, "worker-1@box-7"), Seen(2, "worker-1")], Seen(2, "worker-1")),
        ("abc", [Seen(1, "abc"), LEFT], Seen(1, "abc")),  # a name stands before the beginning of an id
    ],
)
def test_the_one_who_is_meant(wanted: str, seen: list[Seen], node: Seen) -> None:
    assert choose(wanted, seen) == node


@pytest.mark.parametrize("wanted", ["right", "abc", "abc000"])
def test_several_could_be_meant(wanted: str) -> None:
    with pytest.raises(Several, match=rf"'{wanted}' could be any of 2 nodes: say which by its id; .*abc0000000000002"):
        choose(wanted, ALL)


@pytest.mark.parametrize("wanted", ["lef", "", "ab", "ABC0000000000001", "0"])
def test_nobody_is_meant(wanted: str) -> None:
    with pytest.raises(Nobody, match=r"no node .* was seen; there are abc0000000000001 \(left\)"):
        choose(wanted, ALL)


def test_nobody_is_there() -> None:
    with pytest.raises(Nobody, match="nobody is there: check --join and --mesh"):
        choose("left", [])


def test_an_id_is_certain_and_so_is_a_name_that_one_has() -> None:
    assert is_certain("abc0000000000001", ALL) and is_certain("left", ALL)
    assert not is_certain("right", ALL) and not is_certain("abc", ALL) and not is_certain("nobody", ALL)


def test_models_have_endpoints() -> None:
    assert model_of(endpoint_of("org/model-7b")) == "org/model-7b"
    assert model_of("wiremesh.node.drain") == ""
    assert [is_model(name) for name in ("demo", "org/m", "", "a b", "a\n", "x" * 248, "org/")] == [True, True] + [
        False
    ] * 5
