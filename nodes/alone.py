"""Shell. A worker that neither hands caches over nor takes any: the mesh sees it by an endpoint, as it sees a pool.

Routers send it no prompts that another worker was to compute: it would compute them again.
"""

from mesh.endpoint import Endpoint, define
from mesh.options import OptionRefused
from nodes.contract.engine import Card
from nodes.engine_options import EngineOptions
from nodes.names import ALONE


def stages(card: Card, options: EngineOptions) -> bool:
    """Whether it has memory to hand over in."""
    layout = card.layout
    return layout is not None and bool(options.ways) and options.kv_staging_bytes >= layout.block_bytes


def alone_endpoints(card: Card, options: EngineOptions) -> dict[str, Endpoint]:
    """The mark of such a worker; nothing for others, and for those that have no cache of prompts."""
    if card.native or not card.generates or options.role == "encoder" or stages(card, options):
        return {}

    def answer(request: None) -> str:
        return _why(card, options)

    return {ALONE: define(ALONE, answer)}


def check_hand_over(card: Card, options: EngineOptions) -> None:
    """Raises OptionRefused for a role that cannot do without."""
    if card.native or stages(card, options):
        return
    if options.role == "prefill":
        raise OptionRefused(f"--role prefill hands over what it computes: {_why(card, options)}")
    if options.enforce_disagg:
        raise OptionRefused(f"--enforce-disagg takes over what others compute: {_why(card, options)}")


def _why(card: Card, options: EngineOptions) -> str:
    if card.layout is None:
        return f"the {card.engine} engine cannot do that with this model, so use --role worker"
    if not options.ways:
        return "--transports must name a way"
    return f"--kv-staging-bytes is {options.kv_staging_bytes}, give it {card.layout.block_bytes} or more (one block)"
