"""What a request takes in a node, counted in real processes: a clock could not be asked this on a shared machine."""

import sys

import pytest

from bench.opcodes import count, show

REQUESTS = 32
MOST = {"frontend": 13_700, "worker": 9_600}  # a fifth more than today: who needs that says why here
GARBAGE_MOST = 5.0  # per request; what a connection leaves is not ours


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="another Python has other opcodes")
@pytest.mark.parametrize("role", MOST)
def test_a_short_request_stays_cheap_and_leaves_no_circles(role: str) -> None:
    found = count(role, connections=4, requests=REQUESTS, tokens=1)
    assert MOST[role] / 3 < sum(one.opcodes for one in found.functions) / REQUESTS < MOST[role], [
        *show(found, REQUESTS, 20)
    ]
    assert found.garbage / REQUESTS < GARBAGE_MOST
