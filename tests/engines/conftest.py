"""Fixtures of the conformance suite: each test runs with every engine that is installed."""

from collections.abc import Callable, Iterator

import pytest

from nodes.contract.engine import Card
from tests.conftest import children, left_open, settled, threads
from tests.engines.engines import INSTALLED, Row, Shape
from tests.engines.harness import Harness


@pytest.fixture(autouse=True)
def nothing_left(row: Row) -> Iterator[None]:
    """As for every test, but for descriptors of packages that we cannot mend."""
    look = (lambda: threads() | children()) if row.litters else left_open
    before = look()
    yield
    assert not (left := settled(look, before)), f"left open: {sorted(left)}"


@pytest.fixture(scope="session", params=INSTALLED, ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


@pytest.fixture(scope="session")
def _shared(row: Row) -> Iterator[Harness]:
    harness = Harness(row.make(row.folder, Shape()), row.outside)
    yield harness
    harness.stop()


@pytest.fixture
def harness(_shared: Harness) -> Iterator[Harness]:
    """One engine for all tests: what a test leaves behind, the next one would find. So it is looked for."""
    _shared.found.clear()
    _shared.pieces.clear()
    _shared.events.clear()
    yield _shared
    for key in _shared.found:
        _shared.cancel(key)
    _shared.rests()


@pytest.fixture
def card(_shared: Harness) -> Card:
    """What it can do: who cannot do what a test is about need not start once more for it."""
    return _shared.card


@pytest.fixture
def fresh(row: Row) -> Iterator[Callable[..., Harness]]:
    """More engines, of other shapes; they may die."""
    made: list[Harness] = []

    def make(**shape: object) -> Harness:
        made.append(Harness(row.make(row.folder, Shape(**shape)), row.outside))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for harness in made:
        if harness.loop is None or not harness.loop.is_closed():
            harness.stop()
