"""Shell. A node's pool, as the mesh sees it: an endpoint whose name says it, beside those of its work.

It needs no field in any message, it is seen wherever endpoints are seen (`wiremesh nodes`), and who does not know of
pools is not disturbed by it.
"""

from mesh.endpoint import Endpoint, define
from nodes.names import POOL


def pool_endpoints(name: str) -> dict[str, Endpoint]:
    """The tag of a pool; nothing without one."""
    if not name:
        return {}

    def answer(request: None) -> str:
        return name

    return {POOL + name: define(POOL + name, answer)}
