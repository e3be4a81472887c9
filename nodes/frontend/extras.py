"""Shell. What travels with a request besides its payload: names for logs and routers, and parameters for engines."""

from nodes.frontend.exchange import Exchange
from nodes.frontend.wishing import ROUTING, session_of
from nodes.openai.demand import Demand
from nodes.openai.errors import Problem, invalid
from proto.limits import NAME_CHARS_MAX, TEXT_CHARS_MAX

EXTRA = "extra."  # before the names of parameters that nobody here knows, in a request's metadata
EXTRAS_MAX = 16  # of them


def check_extras(demand: Demand) -> Problem | None:
    """Whether the parameters that nobody here knows can be passed on."""
    for name, raw in demand.extra.items():
        too_large = len(EXTRA + name) > NAME_CHARS_MAX or len(bytes(raw)) > TEXT_CHARS_MAX
        if too_large or len(demand.extra) > EXTRAS_MAX:
            shown = name[:64]
            return invalid(f"`{shown}` is not known, and too large to be passed on.", shown, "unknown_parameter")
    return None


def metadata_of(exchange: Exchange, demand: Demand) -> dict[str, str]:
    """What travels with a request: its name for the logs, its conversation for routers, parameters for engines."""
    found = {"id": exchange.name}
    session = session_of(demand, exchange.wire.headers)
    if session:
        found["session"] = session
    for name, raw in demand.extra.items():
        if name != ROUTING:
            found[EXTRA + name] = bytes(raw).decode()
    return found
