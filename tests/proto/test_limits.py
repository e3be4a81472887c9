"""Limits are numbers with a unit, and a relation that does not hold does not import."""

import re
import runpy
from pathlib import Path

import pytest

from proto import limits

UNITS = ("BYTES_MAX", "BYTES_TARGET", "CHARS_MAX", "_MS", "_MS_MIN", "_MS_MAX", "_S", "_MAX", "_MIN")
NAMES = [name for name in vars(limits) if name.isupper() and name not in ("KIB", "MIB")]
SOURCE = Path(limits.__file__)


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_is_a_positive_number_with_a_unit(name: str) -> None:
    value = getattr(limits, name)
    assert isinstance(value, int | float)
    assert value > 0
    assert name.endswith(UNITS) or "_S_" in f"{name}_"


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_has_its_reason_beside_it(name: str) -> None:
    line = next(line for line in SOURCE.read_text().splitlines() if re.match(rf"{name} = ", line))
    assert "# " in line, f"why {name}?"


BROKEN = {
    "FRAME_BYTES_MAX": "4 * MIB",
    "PAYLOAD_BYTES_MAX": "8 * MIB",
    "ITEM_BYTES_MAX": "15 * MIB",
    "BEAT_MS_MIN": "501",
    "SUSPECT_S": "1.0",
    "DEAD_S": "1.5",
    "HUNG_S": "3.0",
    "HANDSHAKE_S": "3.5",
    "TOMBSTONES_MAX": "1_024",
    "TOMBSTONE_S": "4.0",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_relation_that_breaks_does_not_import(name: str, tmp_path: Path) -> None:
    changed, count = re.subn(rf"(?m)^{name} = [^#\n]*", f"{name} = {BROKEN[name]}  ", SOURCE.read_text())
    assert count == 1
    copy = tmp_path / "limits.py"
    copy.write_text(changed)
    with pytest.raises(AssertionError):
        runpy.run_path(str(copy))


def test_the_file_itself_imports() -> None:
    assert runpy.run_path(str(SOURCE))["FRAME_BYTES_MAX"] == limits.FRAME_BYTES_MAX
