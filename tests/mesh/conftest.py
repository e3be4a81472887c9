"""What the tests of the pure cores share."""

import pytest

from tests.pair import Wire


@pytest.fixture
def wire() -> Wire:
    """An in-memory wire between nodes, in virtual time."""
    return Wire()
