"""Shell. One scrape for the whole mesh: every node is asked for its metrics, all at once, and not waited for long."""

import asyncio

from mesh.client import Client
from mesh.failures import MeshError
from nodes import names
from nodes.endpoints import node_families
from nodes.frontend import limits
from nodes.frontend.frontend import Frontend
from nodes.metrics import Family, gauge, labelled

ROLE = "frontend"
SILENT = "wiremesh_scrape_silent_nodes"
SILENT_HELP = "Nodes that did not answer this scrape in time: what they count is missing from it."


async def scraped(frontend: Frontend) -> dict[str, list[Family]]:
    """Families by node."""
    actor = frontend.actor
    client = Client(actor, names.METRICS, type=list[Family])
    others = [node for node in client.instances() if node != actor.node.settings.node]
    answers = await asyncio.gather(*(_asked(client, node) for node in others))
    silent = gauge(SILENT, SILENT_HELP, sum(families is None for families in answers))
    found = {f"{actor.node.settings.node:016x}": [*own(frontend), *labelled([silent], {"role": ROLE})]}
    for node, families in zip(others, answers, strict=True):
        if families is not None:
            found[f"{node:016x}"] = families
    return found


def own(frontend: Frontend) -> list[Family]:
    """This node's."""
    return labelled([*node_families(frontend.actor), *frontend.families()], {"role": ROLE})


async def _asked(client: Client, node: int) -> list[Family] | None:
    try:
        families: list[Family] = await client.direct(None, node, timeout_s=limits.SCRAPE_S).first()
    except MeshError:
        return None
    return families
