"""The clock of the simulated engine, at points that were worked out by hand."""

import pytest

from nodes.engines.timing import Timing, interpolate, step_s

POINTS = [(10.0, 1.0), (20.0, 3.0), (40.0, 4.0)]


@pytest.mark.parametrize(("x", "y"), [(0, 1), (10, 1), (15, 2), (20, 3), (30, 3.5), (40, 4), (60, 5)])
def test_between_and_beyond_the_points(x: float, y: float) -> None:
    assert interpolate(POINTS, x) == pytest.approx(y)


@pytest.mark.parametrize(
    ("new", "decodes", "cached", "milliseconds"),
    [
        (0, False, 0, 0),
        (1000, False, 0, 32.105849),
        (0, True, 0, 5.74),
        (0, True, 500, 26.31),
        (0, True, 1000, 34.01),
        (0, True, 5000, 34.01),
        (1000, True, 500, 58.415849),
    ],
)
def test_the_formulas(new: int, decodes: bool, cached: int, milliseconds: float) -> None:
    assert step_s(Timing(), new, decodes, cached, 1000) == pytest.approx(milliseconds / 1000)
    assert step_s(Timing(speedup=4), new, decodes, cached, 1000) == pytest.approx(milliseconds / 4000)
    assert step_s(Timing(speedup=0), new, decodes, cached, 1000) == 0
