"""Shell. The two endpoints that generate: from a body to a broadcast, and from a broadcast to what the client reads."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from os import urandom

from msgspec import Struct
from xxhash import xxh3_64_intdigest

from mesh.core import Ask
from mesh.routing import ROUTER
from nodes import names
from nodes.contract.media import Spot, media_of
from nodes.frontend import headers, limits
from nodes.frontend.board import Kept, digest
from nodes.frontend.bodies import apart, read_body
from nodes.frontend.broadcast import Broadcast
from nodes.frontend.choice import Choice
from nodes.frontend.exchange import Exchange
from nodes.frontend.extras import metadata_of, terms_of
from nodes.frontend.frontend import LEAVING
from nodes.frontend.generation import CANCELLED, Generation
from nodes.frontend.models import Model
from nodes.frontend.offered import Offered
from nodes.frontend.routes import Path, header_of
from nodes.frontend.texts import Text, prompt_with_media, prompts_of
from nodes.frontend.viewers import BodyViewer, StreamViewer
from nodes.frontend.wishing import Manner, wish_of
from nodes.generation import Generation as Payload
from nodes.generation import encode
from nodes.guiding.checking import complaint
from nodes.openai import errors
from nodes.openai.chunks import Chunks
from nodes.openai.demand import Demand, Kind, budget, check_tokens, sampling
from nodes.openai.errors import Problem, invalid
from nodes.openai.requests import parse
from nodes.openai.responses import Answer, answer_id
from nodes.text.stop import Scanner, Stops
from nodes.text.stream import TextStream
from nodes.transfer import TransferRefused
from proto.placing import Wish


class Prepared(Struct, eq=False):
    """A demand whose prompts are tokens and whose model is there."""

    demand: Demand
    model: Model[Text]
    lora: str
    text: Text
    prompts: Sequence[Sequence[int]]
    budgets: list[int] = []
    ask_timeout_s: float = 0.0
    worker: int = 0
    manner: Manner = Manner()
    spots: tuple[Spot, ...] = ()
    offered: Offered = Offered()

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
    bytes_max = frontend.settings.body_bytes_max
    body = await read_body(wire, bytes_max)
    demand = body if isinstance(body, Problem) else await apart(len(body), parse, kind, body, bytes_max)
    if isinstance(demand, Problem) or not isinstance(demand, Demand) or isinstance(body, Problem):
        frontend.tally.count("refused_bodies")
        await exchange.refuse(demand if isinstance(demand, Problem) else errors.invalid("This is no completion."))
        return
    exchange.stream = demand.stream
    identity, lasting, mark = b"", False, b""
    if headers.resendable(wire.headers):
        identity, lasting = await apart(len(body), identity_of, exchange, body)
        mark = await apart(len(body), digest, body)
        kept = frontend.board.same(identity)
        if kept is not None:
            await attach(exchange, kept, mark, demand)
            return
    prepared = await prepare(exchange, demand, len(body))
    if isinstance(prepared, Problem):
        frontend.tally.count("refused_bodies")
        await exchange.refuse(prepared)
        return
    wait_s = frontend.admission.begin(prepared.sequences)
    if wait_s:
        prepared.offered.close()
        frontend.tally.count("overloads")
        await exchange.refuse(errors.busy(wait_s))
        return
    keeps = bool(identity) and not frontend.board.full
    broadcast = begin(exchange, prepared, keeps)
    if keeps:
        name = broadcast.generation.name
        frontend.keep(Kept(name, identity, exchange.key, mark, lasting, broadcast))
    await view(exchange, broadcast)


def identity_of(exchange: Exchange, body: bytes) -> tuple[bytes, bool]:
    """What a request that is sent again has in common with the first, and whether it names itself: by an
    Idempotency-Key."""
    found = exchange.wire.headers
    name, session = headers.idempotency_key(found), headers.session(found)
    whose = exchange.key.encode(), exchange.endpoint.encode()
    return (digest(b"key", name, *whose), True) if name else (digest(b"session", session, *whose, body), False)


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
    name, lora = models.named(demand.model)
    model = models.models.get(name)
    if model is None:
        return frontend.registry.stranger(demand.model)
    exchange.model = demand.model
    text = models.text(name)
    if text is None or not model.workers:
        return errors.no_worker(demand.model)
    if not model.card.engine.generates:
        return errors.makes_embeddings(demand.model)
    if demand.guide is not None and (problem := await unguided(demand, model)):
        return problem
    if model.unseeded and demand.seed is not None and demand.sampling.temperature:
        return errors.unseeded(model.unseeded)
    if demand.chat is not None and demand.chat.clips:
        return await prepare_media(exchange, demand, model, lora, text)
    context = model.context
    if body_bytes > limits.ENCODE_BYTES_MAX:
        prompts = await asyncio.to_thread(prompts_of, demand, text, context)
    else:
        prompts = prompts_of(demand, text, context)
    if isinstance(prompts, Problem):
        return prompts
    prepared = Prepared(demand, model, lora, text, prompts)
    problem = bounded(exchange, prepared) or check_tokens(demand, model.vocabulary)
    return prepared if problem is None else problem


async def unguided(demand: Demand, model: Model[Text]) -> Problem | None:
    """Why an answer cannot be what it must be."""
    assert demand.guide is not None
    if not model.guides:
        return errors.unsupported(demand.guide_param, "cannot be followed by this model's engine")
    text = await complaint(demand.guide)
    return invalid(text, demand.guide_param, "invalid_value") if text else None


async def prepare_media(
    exchange: Exchange, demand: Demand, model: Model[Text], lora: str, text: Text
) -> Prepared | Problem:
    """A conversation that holds pictures, sounds or clips."""
    frontend, engine = exchange.frontend, model.card.engine
    assert demand.chat is not None
    got = await frontend.attendant.get(demand.chat.clips, model.name, engine.media)
    if isinstance(got, Problem):
        return got
    ids = {kind: card.token for kind, card in engine.media.items()}
    sizes = [part.size for part in got]
    found = await asyncio.to_thread(prompt_with_media, demand, text, model.context, sizes, ids)
    if isinstance(found, Problem):
        return found
    prepared = Prepared(demand, model, lora, text, [found[0]])
    prepared.spots = found[1]
    problem = bounded(exchange, prepared) or check_tokens(demand, model.vocabulary)
    if problem is not None:
        return problem
    encoders = bool(frontend.actor.node.instances(names.ENCODE + model.name))
    lease_s = prepared.ask_timeout_s or limits.TIMEOUT_S_MAX
    try:
        prepared.offered = await frontend.attendant.offer(got, model.name, model.card.digest, encoders, lease_s)
    except TransferRefused:
        return errors.busy(1.0)
    return prepared


def bounded(exchange: Exchange, prepared: Prepared) -> Problem | None:
    """How long it may get, and how long it may take."""
    demand = prepared.demand
    for prompt in prepared.prompts:
        tokens = budget(demand, len(prompt), prepared.model.context)
        if isinstance(tokens, Problem):
            return tokens
        prepared.budgets.append(tokens)
    terms = terms_of(exchange, demand, demand.stream)
    if isinstance(terms, Problem):
        return terms
    prepared.ask_timeout_s, prepared.worker, prepared.manner = terms
    return None


def begin(exchange: Exchange, prepared: Prepared, keeps: bool) -> Broadcast:
    """Ask the mesh for every candidate of every prompt."""
    frontend, demand = exchange.frontend, prepared.demand
    broadcast = frontend.broadcast(keeps)
    broadcast.held = prepared.offered.close
    answer = Answer(answer_id(demand.kind, exchange.name), int(time.time()), demand)
    counts = [len(prompt) for prompt in prepared.prompts]
    window = limits.WINDOW_TOKENS if demand.stream else max(prepared.budgets)
    generation = Generation(exchange.name, answer, counts, max(1, window // 4), frontend.now(), frontend.tally)
    broadcast.generation = exchange.generation = generation
    stops = Stops(demand.stops) if demand.stops else None
    entropy = int.from_bytes(urandom(8), "little") >> 1 if demand.seed is None else 0
    asks = []
    for place in range(len(prepared.prompts)):
        wish = wished(exchange, prepared, place)
        for candidate in range(demand.candidates):
            ask = ask_of(exchange, prepared, place, candidate, entropy, window, wish)
            asks.append(ask)
            generation.add(choice_of(prepared, broadcast, ask.request, place, candidate, stops))
    frontend.names.add(exchange.name, exchange.client_id, [ask.request for ask in asks])
    if len(asks) == 1:
        frontend.actor.ask(asks[0], generation.choices[0])
        return broadcast
    asked: set[int] = set()
    for ask, choice in zip(asks, generation.choices, strict=True):
        if choice.prompt in asked and counts[choice.prompt] > prepared.model.card.engine.block_tokens:
            generation.later(choice.prompt, partial(frontend.actor.ask, ask, choice))
        else:
            asked.add(choice.prompt)
            frontend.actor.ask(ask, choice)
    return broadcast


def wished(exchange: Exchange, prepared: Prepared, place: int) -> Wish | None:
    """What a router is told of one prompt; nothing if none is asked."""
    frontend = exchange.frontend
    if not frontend.settings.routed or prepared.worker or not frontend.actor.node.instances(ROUTER):
        return None
    # An adapter's cache is not its model's: it must not be looked for under the names of the model's blocks.
    card, salt = prepared.model.card.engine, prepared.demand.cache_salt + prepared.lora
    media = [media_of(spot) for spot in prepared.spots]
    wish = wish_of(prepared.manner, prepared.prompts[place], card, salt, xxh3_64_intdigest, media)
    if not prepared.offered.reads:
        wish.media = []  # the client has the embeddings: nobody has to make them
    return wish


def ask_of(
    exchange: Exchange,
    prepared: Prepared,
    place: int,
    candidate: int,
    entropy: int,
    window: int,
    wish: Wish | None,
) -> Ask:
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
        media=prepared.spots,
        lora=prepared.lora,
        guide=demand.guide,
    )
    return Ask(
        request=frontend.actor.node.next_request(),
        endpoint=names.endpoint_of(prepared.model.name),
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
        handles=prepared.offered.handles,
        needs=(*prepared.offered.needs, *prepared.model.feeders),
        musts=prepared.model.feeders,
        trace=exchange.trace,
        metadata=metadata_of(exchange, demand),
        wish=wish,
    )


def choice_of(
    prepared: Prepared, broadcast: Broadcast, request: int, place: int, candidate: int, stops: Stops | None
) -> Choice:
    """The feed of one candidate."""
    demand, text, prompt = prepared.demand, prepared.text, prepared.prompts[place]
    generation, tokenizer = broadcast.generation, text.tokenizer
    echo = tokenizer.decode(prompt, demand.skip_special) if demand.echo else ""
    detokenizer = tokenizer.detokenizer(prompt, demand.skip_special)
    silent = silent_of(demand, text)
    stream = TextStream(
        detokenizer,
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
        detokenizer,
        broadcast.touched,
        Chunks(generation.answer, index) if demand.stream else None,
        silent,
        generation.usage if demand.running_usage else None,
        echo,
        demand.stream and stops is None and demand.logprobs < 0 and not silent and not demand.running_usage,
    )


def silent_of(demand: Demand, text: Text) -> frozenset[int]:
    """Tokens that end the text and would be shown with it."""
    stops = frozenset() if demand.include_stop else frozenset(demand.stop_tokens)
    if demand.ignore_eos and demand.guide is None:
        return stops
    return stops | (text.silent if demand.skip_special else frozenset(text.tokenizer.eos_tokens))


def route_of(exchange: Exchange, generation: Generation) -> bytes:
    """Where an answer comes from, as far as it is known by now."""
    node = exchange.frontend.actor.node

    def path_of(request: int) -> Path | None:
        found = node.owner.requests.get(request)
        return None if found is None else (found.nodes, found.endpoints, found.why)

    return header_of(node.settings.node, generation.choices, path_of)


# --- From a broadcast to its reader ------------------------------------------------------------------------


async def view(exchange: Exchange, broadcast: Broadcast, cursor: int = 0, ids: bool = False) -> None:
    """Let the client read all of it, from one of its events on."""
    frontend, wire, generation = exchange.frontend, exchange.wire, broadcast.generation
    exchange.generation = generation
    viewer: StreamViewer | BodyViewer
    if headers.explains(wire.headers):
        wire.late = lambda: [(b"x-wiremesh-route", route_of(exchange, generation))]
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
