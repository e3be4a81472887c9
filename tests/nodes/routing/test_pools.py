"""The global choice: pools by model, target and health."""

import pytest

from nodes.routing.pools import Axis, Health, Override, Pool, Table, Target, choose_pool

POOLS = (Pool("quick", slowness=0), Pool("middle", slowness=1), Pool("cheap", slowness=2))
LENGTH = Axis("prompt_tokens", 0, 8000, 2)
FIRST = Axis("first_token_ms", 0, 900, 3)
CELLS = ("quick", "middle", "cheap", "quick", "quick", "middle")
TABLE = Table(POOLS, (LENGTH, FIRST), CELLS)
WELL = {pool.name: Health(ready=2) for pool in POOLS}


def pools(target: Target, health: "dict[str, Health]" = WELL, table: Table = TABLE) -> "tuple[str, ...]":
    return choose_pool(table, target, health).pools


def test_the_table() -> None:
    assert pools(Target("m", 100, 100)) == ("quick",)
    assert pools(Target("m", 100, 800)) == ("cheap", "middle", "quick"), "quicker ones may help, the slowest first"
    assert pools(Target("m", 7999, 800))[0] == "middle"
    assert pools(Target("m", 10**6, 10**6))[0] == "middle", "beyond an axis is its end"
    assert pools(Target("m", 0, None))[0] == "middle", "not said: the middle"
    assert choose_pool(TABLE, Target("m", 100, 800), WELL).why == "prompt_tokens 100, first_token_ms 800 goes to cheap"


def test_every_cell_is_reached() -> None:
    found = tuple(pools(Target("m", tokens, ms))[0] for tokens in (0, 4000) for ms in (0, 300, 600))
    assert found == CELLS


def test_fail_over() -> None:
    target = Target("m", 100, 800)
    assert pools(target, WELL | {"cheap": Health()}) == ("middle", "quick")
    choice = choose_pool(TABLE, target, WELL | {"cheap": Health(2, busy=True)})
    assert choice.pools == ("middle", "quick", "cheap") and choice.why.endswith("but cheap is busy: middle")
    assert pools(target, {}) == ()
    assert choose_pool(TABLE, target, {}).why.endswith("no worker is ready there or wherever else it may go")


def test_how_far_it_may_go() -> None:
    target, ill = Target("m", 100, 100), WELL | {"quick": Health()}
    assert pools(target, ill) == ()
    assert pools(target, ill, Table(POOLS, (LENGTH, FIRST), CELLS, retry="any")) == ("middle", "cheap")
    assert pools(Target("m", 100, 800), WELL, Table(POOLS, (LENGTH, FIRST), CELLS, retry="none")) == ("cheap",)


def test_models_and_priorities() -> None:
    mixed = (Pool("a", ("x",)), Pool("b", ("y",), 1), Pool("c", ("x", "y"), 2))
    table = Table(mixed, overrides=(Override(5, 9, "c"), Override(0, 9, "b")), retry="any")
    assert pools(Target("x", 1), {pool.name: Health(1) for pool in mixed}, table) == ("a", "c")
    assert pools(Target("y", 1), {pool.name: Health(1) for pool in mixed}, table) == ("b", "c")
    assert pools(Target("x", 1, priority=7), {pool.name: Health(1) for pool in mixed}, table)[0] == "c"
    assert pools(Target("x", 1, priority=1), {pool.name: Health(1) for pool in mixed}, table)[0] == "a", "b has no x"
    assert choose_pool(table, Target("z", 1), {}).why == "no pool serves z"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (((),), "at least one pool"),
        (((Pool("a"), Pool("a")),), "no two of one name"),
        ((POOLS, (LENGTH,), ("quick",)), "the table has 1 cells: its axes make 2"),
        ((POOLS, (LENGTH,), ("quick", "slow")), "there is no pool 'slow'"),
        ((POOLS, (Axis("width", 0, 1, 1),), ("quick",)), "axis width"),
        ((POOLS, (Axis("prompt_tokens", 1, 1, 1),), ("quick",)), "rise"),
        ((POOLS, (LENGTH, LENGTH), ("quick",) * 4), "twice"),
        ((POOLS, (), (), (), "sometimes"), "retry is 'sometimes'"),
    ],
)
def test_mistakes_are_told(arguments: "tuple[object, ...]", complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Table(*arguments)  # type: ignore[arg-type]
