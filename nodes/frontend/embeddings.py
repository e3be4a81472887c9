"""Shell. `POST /v1/embeddings`: each text is a request of the mesh whose one unit is its vector.

So a batch is spread over all workers, a text whose worker dies is read by another, and all end if the client goes.
An Idempotency-Key has no meaning here: the same texts have the same vectors whenever they are sent.
"""

import asyncio
from collections.abc import Sequence
from math import inf

from mesh.core import Ask
from mesh.routing import ROUTER
from nodes import names
from nodes.frontend import headers, limits
from nodes.frontend.batch import AT_ONCE, Batch
from nodes.frontend.bodies import apart, read_body
from nodes.frontend.exchange import Exchange
from nodes.frontend.extras import metadata_of, terms_of
from nodes.frontend.frontend import LEAVING
from nodes.frontend.generation import CANCELLED
from nodes.frontend.models import Model
from nodes.frontend.routes import Path, header_of
from nodes.frontend.texts import Text
from nodes.frontend.wishing import Manner
from nodes.generation import Generation as Payload
from nodes.generation import encode
from nodes.openai import errors
from nodes.openai.demand import Embeddings, Kind
from nodes.openai.embeddings import answer
from nodes.openai.errors import Problem, invalid
from nodes.openai.limits import INPUT_TOKENS_MAX
from nodes.openai.requests import parse
from proto.placing import Wish


class Prepared:
    """What was asked for, once its texts are tokens and its model is there."""

    __slots__ = ("asked", "manner", "model", "payload", "texts", "until", "worker")

    def __init__(self, asked: Embeddings, model: Model[Text], texts: Sequence[Sequence[int]]) -> None:
        self.asked = asked
        self.model = model
        self.texts = texts
        self.manner = Manner()
        self.payload = b""
        self.until = inf
        self.worker = 0


async def embed(exchange: Exchange) -> None:
    """The endpoint."""
    frontend = exchange.frontend
    if frontend.draining:
        await exchange.refuse(LEAVING)
        return
    body = await read_body(exchange.wire, frontend.settings.body_bytes_max)
    found = body if isinstance(body, Problem) else await read(exchange, body)
    if isinstance(found, Problem):
        frontend.tally.count("refused_bodies")
        await exchange.refuse(found)
        return
    sequences = min(len(found.texts), AT_ONCE)
    wait_s = frontend.admission.begin(sequences)
    if wait_s:
        frontend.tally.count("overloads")
        await exchange.refuse(errors.busy(wait_s))
        return
    try:
        await _serve(exchange, found)
    finally:
        frontend.admission.end(sequences, frontend.now())


# --- What was asked for ------------------------------------------------------------------------------------


async def read(exchange: Exchange, body: bytes) -> Prepared | Problem:
    """What a body asks for."""
    bytes_max = exchange.frontend.settings.body_bytes_max
    asked = await apart(len(body), parse, Kind.EMBEDDING, body, bytes_max)
    if isinstance(asked, Embeddings):
        return await prepare(exchange, asked, len(body) > limits.ENCODE_BYTES_MAX)
    return asked if isinstance(asked, Problem) else invalid("This asks for no embeddings.")


async def prepare(exchange: Exchange, asked: Embeddings, is_long: bool) -> Prepared | Problem:
    """Everything that can be wrong with a request is found here."""
    models, name = exchange.frontend.registry.models, asked.demand.model
    model = models.models.get(name)
    if model is None:
        return exchange.frontend.registry.stranger(name)
    exchange.model = name
    text = models.text(name)
    if text is None or not model.workers:
        return errors.no_worker(name)
    problem = _unfit(asked, model)
    if problem is not None:
        return problem
    found = await asyncio.to_thread(texts_of, asked, text, model) if is_long else texts_of(asked, text, model)
    if isinstance(found, Problem):
        return found
    prepared = Prepared(asked, model, found)
    return _bounded(exchange, prepared) or prepared


def _unfit(asked: Embeddings, model: Model[Text]) -> Problem | None:
    """Whether this model makes such vectors."""
    engine, wanted = model.card.engine, asked.dimensions
    if not engine.embeds:
        return invalid(f"The model `{model.name}` makes no embeddings.", "model", "model_not_supported")
    if wanted in (0, engine.embeds):
        return None
    if not engine.shortens:
        message = f"This model's embeddings have {engine.embeds} numbers: they cannot be shortened."
        return invalid(message, "dimensions", "unsupported_parameter")
    if wanted > engine.embeds or (engine.dimensions and wanted not in engine.dimensions):
        which = ", ".join(map(str, engine.dimensions)) or f"at most {engine.embeds}"
        return invalid(f"This model's embeddings may have {which} numbers.", "dimensions", "invalid_value")
    return None


def texts_of(asked: Embeddings, text: Text, model: Model[Text]) -> list[Sequence[int]] | Problem:
    """The tokens of all texts. It may take long: then call it in a thread."""
    context, demand = model.context, asked.demand
    found: list[Sequence[int]] = []
    total = 0
    for index, given in enumerate(demand.prompts):
        place = "input" if len(demand.prompts) == 1 else f"input[{index}]"
        tokens = text.tokenizer.at_most(given, context, demand.add_special) if isinstance(given, str) else given
        if isinstance(tokens, int):
            return errors.far_too_long(tokens, context, place)
        if not tokens:
            return invalid(f"`{place}` holds no tokens.", place, "empty_prompt")
        if len(tokens) > context:
            return errors.too_long(len(tokens), len(tokens), context, place)
        if not isinstance(given, str) and max(tokens) >= model.vocabulary:
            message = f"`{place}` holds a token id beyond the model's {model.vocabulary} tokens."
            return invalid(message, place, "invalid_value")
        total += len(tokens)
        if total > INPUT_TOKENS_MAX:
            return invalid(f"More than {INPUT_TOKENS_MAX} tokens in one request.", "input", "too_many_tokens")
        found.append(tokens)
    return found


def _bounded(exchange: Exchange, prepared: Prepared) -> Problem | None:
    """How long it may take, and how it wants to be placed."""
    demand = prepared.asked.demand
    terms = terms_of(exchange, demand, False)
    if isinstance(terms, Problem):
        return terms
    timeout_s, prepared.worker, prepared.manner = terms
    prepared.until = exchange.frontend.now() + timeout_s
    size = prepared.model.card.engine.embeds
    dimensions = 0 if prepared.asked.dimensions == size else prepared.asked.dimensions
    digest = prepared.model.card.digest
    payload = Payload(priority=demand.priority, digest=digest, embeds=True, dimensions=dimensions)
    prepared.payload = encode(payload)
    return None


# --- Its requests of the mesh ------------------------------------------------------------------------------


async def _serve(exchange: Exchange, prepared: Prepared) -> None:
    frontend, wire, asked = exchange.frontend, exchange.wire, prepared.asked
    changed = asyncio.Event()
    size = asked.dimensions or prepared.model.card.engine.embeds
    batch = Batch([len(text) for text in prepared.texts], size, asked.encoding, changed.set)
    exchange.generation = batch
    wire.gone_now = lambda: frontend.end_batch(batch, CANCELLED)
    if headers.explains(wire.headers):
        wire.late = lambda: [(b"x-wiremesh-route", _route_of(exchange, batch))]
    frontend.batches[batch] = None
    wire.watch()
    try:
        while not batch.done:
            changed.clear()
            _ask_next(exchange, prepared, batch)
            if not batch.done:
                await changed.wait()
    finally:
        wire.unwatch()
        frontend.end_batch(batch, CANCELLED)
        frontend.names.add(exchange.name, exchange.client_id, [text.request for text in batch.choices])
    await _answer(exchange, batch, asked)


def _ask_next(exchange: Exchange, prepared: Prepared, batch: Batch) -> None:
    """Ask for as many texts as may run."""
    frontend = exchange.frontend
    asks = []
    while (index := batch.next()) >= 0:
        ask = _ask_of(exchange, prepared, index)
        asks.append((ask, batch.begin(index, ask.request)))
    for ask, feed in asks:
        frontend.actor.ask(ask, feed)


def _ask_of(exchange: Exchange, prepared: Prepared, index: int) -> Ask:
    """One text as a request of the mesh."""
    frontend, demand, settings = exchange.frontend, prepared.asked.demand, exchange.frontend.settings
    return Ask(
        request=frontend.actor.node.next_request(),
        endpoint=names.endpoint_of(demand.model),
        payload=prepared.payload,
        prompt=prepared.texts[index],
        policy=settings.policy,
        routed=settings.routed and not prepared.worker,
        pinned=prepared.worker,
        barred=tuple(prepared.model.others),
        window=1,
        timeout_s=max(prepared.until - frontend.now(), 0.001),
        patience_s=limits.PATIENCE_S,
        moves_max=settings.migrations_max,
        trace=exchange.trace,
        metadata=metadata_of(exchange, demand),
        wish=_wish_of(exchange, prepared, index),
    )


def _wish_of(exchange: Exchange, prepared: Prepared, index: int) -> Wish | None:
    """What a router is told of a text: how long it is, and how it wants to be placed. No cache holds any of it."""
    frontend, manner = exchange.frontend, prepared.manner
    if not frontend.settings.routed or prepared.worker or not frontend.actor.node.instances(ROUTER):
        return None
    tokens, block_tokens = len(prepared.texts[index]), prepared.model.card.engine.block_tokens
    how = {name: getattr(manner, name) for name in manner.__struct_fields__}
    return Wish(tokens=tokens, block_tokens=block_tokens, **how)


async def _answer(exchange: Exchange, batch: Batch, asked: Embeddings) -> None:
    frontend, tokens = exchange.frontend, batch.counts()[0]
    if exchange.wire.gone:
        frontend.tally.count("disconnects")
        exchange.status, exchange.outcome = CANCELLED.status, "disconnected"
    elif batch.problem is not None:
        await exchange.refuse(batch.problem)
    else:
        frontend.tally.read(tokens, len(batch.parts))
        await exchange.answer(answer(batch.parts, asked.demand.model, tokens))


def _route_of(exchange: Exchange, batch: Batch) -> bytes:
    """Where an answer comes from."""

    def path_of(request: int) -> Path | None:
        return None

    return header_of(exchange.frontend.actor.node.settings.node, batch.choices, path_of)
