"""Shell. What travels with a request besides its payload: names for logs and routers, and parameters for engines."""

from typing import NamedTuple

from nodes.frontend import headers
from nodes.frontend.exchange import Exchange
from nodes.frontend.wishing import ROUTING, Manner, manner_of, session_of
from nodes.openai.demand import Demand
from nodes.openai.errors import Problem, invalid
from proto.limits import NAME_CHARS_MAX, TEXT_CHARS_MAX

EXTRA = "extra."  # before the names of parameters that nobody here knows, in a request's metadata
EXTRAS_MAX = 16  # of them


class Terms(NamedTuple):
    """How a request is to be served, whatever it asks for."""

    timeout_s: float
    worker: int  # 0: any
    manner: Manner


def terms_of(exchange: Exchange, demand: Demand, stream: bool) -> Terms | Problem:
    """What its headers and its unknown parameters say, checked."""
    found = exchange.wire.headers
    timeout_s = headers.timeout_s(found, stream, exchange.frontend.settings.timeout_s)
    if timeout_s is None:
        return invalid("`x-request-timeout-ms` must be milliseconds, more than 0.", "x-request-timeout-ms")
    worker = headers.worker(found)
    if worker is None:
        return invalid("`x-wiremesh-worker` must be a node's id, 16 hexadecimal digits.", "x-wiremesh-worker")
    if problem := check_extras(demand):
        return problem
    try:
        return Terms(timeout_s, worker, manner_of(demand, found))
    except ValueError as error:
        return invalid(f"How to place this request: {error}.", "routing", "invalid_value")


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
