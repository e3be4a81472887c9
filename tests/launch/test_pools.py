"""`wiremesh pools`: its table and flags, and what it says of those that cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch.flags_pools import PoolsFlags
from launch.pools import pools_of
from mesh.options import OptionRefused
from nodes.engine_options import EngineOptions

QUICK, CHEAP = {"name": "quick"}, {"name": "cheap", "slowness": 1}
AXIS = {"name": "first_token_ms", "least": 0, "most": 1000, "steps": 2}


def written(folder: Path, content: Any) -> str:
    path = folder / "table.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_table_becomes_a_placer_for_each_pool(tmp_path: Path) -> None:
    table = written(tmp_path, {"pools": [QUICK, CHEAP], "axes": [AXIS], "cells": ["quick", "cheap"]})
    found = pools_of(PoolsFlags(table=table, policy="round-robin", first_token_ms=300))
    assert found.placed == {"quick": 0, "cheap": 0}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "Input data was truncated"),
        ({"pools": []}, "there must be at least one pool"),
        ({"pools": [{"name": "a/b"}]}, "a pool is called 'a/b'"),
        ({"pools": [QUICK], "cells": ["quick"]}, "the table has 1 cells: its axes make 0"),
        ({"pools": [QUICK], "axes": [AXIS], "cells": ["quick", "x"]}, "there is no pool 'x'"),
        ({"pools": [{}]}, "missing required field `name`"),
        ({"pools": [{**QUICK, "slownes": 1}]}, "slownes"),
        (" " * (1 << 20 | 1), "are the most"),
    ],
)
def test_a_table_that_makes_no_sense_is_one_sentence(tmp_path: Path, content: Any, complaint: str) -> None:
    with pytest.raises(OptionRefused, match="--table") as refused:
        pools_of(PoolsFlags(table=written(tmp_path, content)))
    assert complaint in str(refused.value) and "\n" not in str(refused.value)


def test_flags_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(OptionRefused, match="No such file"):
        pools_of(PoolsFlags(table=str(tmp_path / "nowhere")))
    with pytest.raises(OptionRefused, match="--table is needed"):
        PoolsFlags()
    with pytest.raises(OptionRefused, match="--next-token-ms"):
        PoolsFlags(table="t", next_token_ms=-1.0)
    for name in ("a b", "a/b", "x" * 252, "a\n"):
        with pytest.raises(OptionRefused, match="--pool"):
            EngineOptions(pool=name)
