"""Where a node's data plane listens."""

import pytest

from nodes.planes import beside


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("ipc:///run/user/7/mesh/0000000000000001.ipc", "ipc:///run/user/7/mesh/00000000000000ff.bulk"),
        ("tcp://127.0.0.1:7001", "tcp://127.0.0.1:0"),
        ("tcp://0.0.0.0:0", "tcp://0.0.0.0:0"),
        ("tcp://[::1]:7001", "tcp://[::1]:0"),
    ],
)
def test_it_listens_beside_the_node(address: str, found: str) -> None:
    assert beside(address, 0xFF) == found
