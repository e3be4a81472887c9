"""Shell. The two endpoints that generate: from a body to a broadcast, and from a broadcast to what the client reads."""

import asyncio
import secrets
import time

from mesh.core import Ask
from nodes import names
from nodes.frontend import headers, limits
from nodes.frontend.board import Kept, digest
from nodes.frontend.bodies import read_body
from nodes.frontend.broadcast import Broadcast
from nodes.frontend.choice import Choice
from nodes.frontend.exchange import Exchange
from nodes.frontend.frontend import LEAVING
from nodes.frontend.generation import CANCELLED, Generation
from nodes.frontend.models import Model
from nodes.frontend.texts import Text, prompts_of
from nodes.frontend.viewers import BodyViewer, StreamViewer
from nodes.generation import Generation as Payload
from nodes.generation import encode
from nodes.openai import errors
from nodes.openai.chunks import Chunks
from nodes.openai.demand import Demand, Kind, budget, check_tokens, sampling
from nodes.openai.errors import Problem, invalid
from nodes.openai.requests import parse
from nodes.openai.responses import Answer, answer_id
from nodes.text.stop import Scanner, Stops
from nodes.text.stream import TextStream
from proto.limits import NAME_CHARS_MAX, TEXT_CHARS_MAX

EXTRA = "extra."  # before the names of parameters that nobody here knows, in a request's metadata


class Prepared:
    """A demand whose prompts are tokens and whose model is there."""

    __slots__ = ("ask_timeout_s", "budgets", "demand", "model", "prompts", "text", "worker")

    def __init__(self, demand: Demand, model: Model[Text], text: Text, prompts: list[list[int]]) -> None:
        self.demand = demand
        self.model = model
        self.text = text
        self.prompts = prompts
        self.budgets: list[int] = []
        self.ask_timeout_s = 0.0
        self.worker = 0

    @property
    def sequences(self) -> int:
        """How many requests of the mesh it makes."""
        return len(self.prompts) * self.demand.candidates


async def complete(exchange: Exchange, kind: Kind) -> None:
    """`POST /v1/chat/completions` and `/v1/completions`."""
    frontend, wire = exchange.frontend, exchange.wire
    if frontend.draining:
        await exchange.refuse(LEAVING)
        return
    body = await read_body(wire, frontend.settings.body_bytes_max)
    demand = body if isinstance(body, Problem) else parse(kind, body, frontend.settings.body_bytes_max)
    if isinstance(demand, Problem) or not isinstance(demand, Demand) or isinstance(body, Problem):
        frontend.tally.count("refused_bodies")
        await exchange.refuse(demand if isinstance(demand, Problem) else errors.invalid("This is no completion."))
        return
    exchange.stream = demand.stream
    identity, lasting = identity_of(exchange, body)
    if identity:
        kept = frontend.board.same(identity)
        if kept is not None:
            await attach(exchange, kept, digest(body), demand)
            return
    prepared = await prepare(exchange, demand, len(body))
    if isinstance(prepared, Problem):
        frontend.tally.count("refused_bodies")
        await exchange.refuse(prepared)
        return
    wait_s = frontend.admission.begin(prepared.sequences)
    if wait_s:
        frontend.tally.count("overloads")
        await exchange.refuse(errors.busy(wait_s))
        return
    keeps = bool(identity) and not frontend.board.full
    broadcast = begin(exchange, prepared, keeps)
    if keeps:
        name = broadcast.generation.name
        frontend.keep(Kept(name, identity, exchange.key, digest(body), lasting, broadcast))
    await view(exchange, broadcast)


def identity_of(exchange: Exchange, body: bytes) -> tuple[bytes, bool]:
    """What a request that is sent again has in common with the first; empty if it says nothing of the kind. And
    whether it names itself: by an Idempotency-Key."""
    found = exchange.wire.headers
    key, place = exchange.key.encode(), exchange.endpoint.encode()
    name = headers.idempotency_key(found)
    if name:
        return digest(b"key", name, key, place), True
    session = headers.session(found)
    return (digest(b"session", session, key, place, body), False) if session else (b"", False)


async def attach(exchange: Exchange, kept: Kept[Broadcast], body: bytes, demand: Demand) -> None:
    """The same request again: join what it began."""
    if kept.body != body:
        message = "The Idempotency-Key was used for another request."
        await exchange.refuse(invalid(message, "idempotency-key", "idempotency_key_reused"))
        return
    exchange.attached = kept.name
    exchange.model = demand.model
    exchange.frontend.tally.count("attachments")
    await view(exchange, kept.item, headers.last_event(exchange.wire.headers) + 1)


# --- From a demand to its requests -----------------------------------------------------------------------


async def prepare(exchange: Exchange, demand: Demand, body_bytes: int) -> Prepared | Problem:
    """Everything that can be wrong with a demand is found here."""
    frontend = exchange.frontend
    models = frontend.registry.models
    model = models.models.get(demand.model)
    if model is None:
        return errors.no_model(demand.model)
    exchange.model = demand.model
    text = models.text(demand.model)
    if text is None or not model.workers:
        return errors.no_worker(demand.model)
    context = model.card.engine.context
    if body_bytes > limits.ENCODE_BYTES_MAX:
        prompts = await asyncio.to_thread(prompts_of, demand, text, context)
    else:
        prompts = prompts_of(demand, text, context)
    if isinstance(prompts, Problem):
        return prompts
    prepared = Prepared(demand, model, text, prompts)
    problem = bounded(exchange, prepared) or check_tokens(demand, model.card.engine.vocabulary)
    return prepared if problem is None else problem


def bounded(exchange: Exchange, prepared: Prepared) -> Problem | None:
    """How long it may get, and how long it may take."""
    demand, found = prepared.demand, exchange.wire.headers
    for prompt in prepared.prompts:
        tokens = budget(demand, len(prompt), prepared.model.card.engine.context)
        if isinstance(tokens, Problem):
            return tokens
        prepared.budgets.append(tokens)
    timeout_s = headers.timeout_s(found, demand.stream, exchange.frontend.settings.timeout_s)
    if timeout_s is None:
        return invalid("`x-request-timeout-ms` must be milliseconds, more than 0.", "x-request-timeout-ms")
    worker = headers.worker(found)
    if worker is None:
        return invalid("`x-wiremesh-worker` must be a node's id, 16 hexadecimal digits.", "x-wiremesh-worker")
    for name, raw in demand.extra.items():
        if len(EXTRA + name) > NAME_CHARS_MAX or len(bytes(raw)) > TEXT_CHARS_MAX or len(demand.extra) > 16:
            shown = name[:64]
            return invalid(f"`{shown}` is not known, and too large to be passed on.", shown, "unknown_parameter")
    prepared.ask_timeout_s, prepared.worker = timeout_s, worker
    return None


def begin(exchange: Exchange, prepared: Prepared, keeps: bool) -> Broadcast:
    """Ask the mesh for every candidate of every prompt."""
    frontend, demand = exchange.frontend, prepared.demand
    broadcast = frontend.broadcast(keeps)
    answer = Answer(answer_id(demand.kind, exchange.name), int(time.time()), demand)
    counts = [len(prompt) for prompt in prepared.prompts]
    window = limits.WINDOW_TOKENS if demand.stream else max(prepared.budgets)
    generation = Generation(exchange.name, answer, counts, window, frontend.now(), frontend.tally)
    broadcast.generation = exchange.generation = generation
    stops = Stops(demand.stops) if demand.stops else None
    entropy = secrets.randbits(63) if demand.seed is None else 0
    asks = []
    for place in range(len(prepared.prompts)):
        for candidate in range(demand.candidates):
            ask = ask_of(exchange, prepared, place, candidate, entropy, window)
            asks.append(ask)
            generation.add(choice_of(prepared, broadcast, ask.request, place, candidate, stops))
    for ask, choice in zip(asks, generation.choices, strict=True):
        frontend.actor.ask(ask, choice)
    return broadcast


def ask_of(exchange: Exchange, prepared: Prepared, place: int, candidate: int, entropy: int, window: int) -> Ask:
    """One candidate as a request of the mesh."""
    frontend, demand, settings = exchange.frontend, prepared.demand, exchange.frontend.settings
    payload = Payload(
        max_tokens=prepared.budgets[place],
        min_tokens=demand.min_tokens,
        stop_tokens=demand.stop_tokens,
        ignore_eos=demand.ignore_eos,
        sampling=sampling(demand, place, candidate, entropy),
        cache_salt=demand.cache_salt,
        priority=demand.priority,
        digest=prepared.model.card.digest,
    )
    return Ask(
        request=frontend.actor.node.next_request(),
        endpoint=names.endpoint_of(demand.model),
        payload=encode(payload),
        prompt=prepared.prompts[place],
        policy=settings.policy,
        routed=settings.routed and not prepared.worker,
        pinned=prepared.worker,
        barred=tuple(prepared.model.others),
        window=window,
        timeout_s=prepared.ask_timeout_s,
        patience_s=limits.PATIENCE_S,
        moves_max=settings.migrations_max,
        trace=exchange.trace,
        metadata=metadata_of(exchange, demand),
    )


def metadata_of(exchange: Exchange, demand: Demand) -> dict[str, str]:
    """What travels with a request: its name for the logs, its conversation for routers, parameters for engines."""
    found = {"id": exchange.name}
    session = headers.session(exchange.wire.headers).decode("latin-1") or demand.cache_key
    if session:
        found["session"] = session
    for name, raw in demand.extra.items():
        found[EXTRA + name] = bytes(raw).decode()
    return found


def choice_of(
    prepared: Prepared, broadcast: Broadcast, request: int, place: int, candidate: int, stops: Stops | None
) -> Choice:
    """The feed of one candidate."""
    demand, text, prompt = prepared.demand, prepared.text, prepared.prompts[place]
    generation, tokenizer = broadcast.generation, text.tokenizer
    echo = tokenizer.decode(prompt, demand.skip_special) if demand.echo else ""
    stream = TextStream(
        tokenizer.detokenizer(prompt, demand.skip_special),
        None if stops is None else Scanner(stops, demand.include_stop),
        tokenizer.spell if demand.logprobs >= 0 else None,
        demand.min_tokens,
        len(echo),
    )
    index = place * demand.choices + candidate
    return Choice(
        request,
        index,
        place,
        stream,
        broadcast.touched,
        Chunks(generation.answer, index) if demand.stream else None,
        silent_of(demand, text),
        generation.usage if demand.running_usage else None,
        echo,
        stops is None and demand.logprobs < 0,
    )


def silent_of(demand: Demand, text: Text) -> frozenset[int]:
    """Tokens that end the text and would be shown with it."""
    stops = frozenset() if demand.include_stop else frozenset(demand.stop_tokens)
    if demand.ignore_eos:
        return stops
    return stops | (text.silent if demand.skip_special else frozenset(text.tokenizer.eos_tokens))


# --- From a broadcast to its reader ------------------------------------------------------------------------


async def view(exchange: Exchange, broadcast: Broadcast, cursor: int = 0, ids: bool = False) -> None:
    """Let the client read all of it, from one of its events on."""
    frontend, wire, generation = exchange.frontend, exchange.wire, broadcast.generation
    exchange.generation = generation
    viewer: StreamViewer | BodyViewer
    if broadcast.log is not None:
        wire.extra.append((b"x-wiremesh-stream", generation.name.encode()))
        frontend.board.stay(generation.name)
    if generation.streams:
        viewer = StreamViewer(wire, broadcast, frontend.tally, cursor, ids or headers.numbered(wire.headers))
    else:
        viewer = BodyViewer(wire, broadcast, frontend.tally, frontend.settings.json_pings)
    try:
        sent = await viewer.run()
    finally:
        viewer.close()
    if viewer.complete:
        frontend.board.answered(generation.name)
        exchange.status = wire.status
        exchange.outcome = (generation.problem.code or "") if generation.problem is not None else ""
    elif wire.gone:
        frontend.tally.count("disconnects")
        exchange.status, exchange.outcome = CANCELLED.status, "disconnected"
    elif not sent and generation.problem is not None:
        await exchange.refuse(generation.problem)
