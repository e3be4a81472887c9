"""The table of traps names the test that shows each handled: those tests are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
README = ROOT / "nodes" / "engines" / "README.md"


def test_each_trap_is_shown_by_a_test_that_there_is() -> None:
    table = README.read_text().partition("## Traps")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        shown = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert shown, row
        for file, name in shown:
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {name}"
