"""Shell. The endpoints that generate nothing: models, tokens, health, metrics, and the description of it all."""

import asyncio
from functools import cache
from typing import Any

import msgspec

from nodes.frontend import limits
from nodes.frontend.bodies import apart, read_body
from nodes.frontend.docs import PAGE, POLICY
from nodes.frontend.exchange import JSON, Exchange
from nodes.frontend.frontend import Frontend
from nodes.frontend.models import ADAPTER
from nodes.frontend.models import Model as Known
from nodes.frontend.painted import live as live_painted
from nodes.frontend.scrape import scraped
from nodes.frontend.texts import Text, prompt_with_media, tokens_of
from nodes.frontend.wire import Wire
from nodes.openai import errors
from nodes.openai.demand import Detokenization, Kind, Tokenization
from nodes.openai.errors import Problem, invalid
from nodes.openai.openapi import document
from nodes.openai.requests import Parsed, parse
from nodes.openai.responses import Detokenized, Model, ModelList, Tokenized

HTML = [(b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", POLICY)]
MODELS = "/v1/models/"

_encode = msgspec.json.Encoder().encode


async def tell(wire: Wire, value: Any, status: int = 200) -> None:
    """A value as JSON."""
    await wire.answer(status, JSON, _encode(value))


# --- Probes ----------------------------------------------------------------------------------------------


async def root(frontend: Frontend, wire: Wire) -> None:
    """Something to look at."""
    await tell(wire, {"name": "wiremesh", "version": frontend.version, "docs": "/docs"})


async def health(frontend: Frontend, wire: Wire) -> None:
    """Whether a request would be served."""
    registry = frontend.registry
    names = [*(model.name for model in registry.models.live()), *live_painted(registry.pictures)]
    status = "draining" if frontend.draining else "ready" if names else "no workers"
    await tell(wire, {"status": status, "models": names}, 200 if status == "ready" else 503)


async def live(frontend: Frontend, wire: Wire) -> None:
    """Whether the process runs."""
    await tell(wire, {"status": "live"})


async def version(frontend: Frontend, wire: Wire) -> None:
    """Which Wiremesh this is."""
    await tell(wire, {"version": frontend.version})


async def metrics(frontend: Frontend, wire: Wire) -> None:
    """Everything that all nodes count."""
    from nodes import exposition  # prometheus_client is slow to load, and many frontends are never scraped

    families = await scraped(frontend)
    kind = [(b"content-type", exposition.CONTENT_TYPE.encode())]
    await wire.answer(200, kind, exposition.render(families))


@cache
def _described(version: str) -> bytes:
    return _encode(document(version))


async def openapi(frontend: Frontend, wire: Wire) -> None:
    """What can be asked, for programs."""
    await wire.answer(200, JSON, _described(frontend.version))


async def docs(frontend: Frontend, wire: Wire) -> None:
    """What can be asked, for people."""
    await wire.answer(200, HTML, PAGE)


# --- Models ----------------------------------------------------------------------------------------------


async def models(frontend: Frontend, wire: Wire) -> None:
    """All models, or one of them; names may hold slashes."""
    known = frontend.registry.models
    name = wire.scope["path"].removeprefix(MODELS) if wire.scope["path"].startswith(MODELS) else ""
    if name:
        base, lora = known.named(name)
        found, painted = known.models.get(base), frontend.registry.pictures.get(name)
        if found is None and painted is not None:
            await tell(wire, Model(name, painted.created))
        elif found is None or known.text(base) is None:
            problem = errors.no_model(name)
            await wire.answer(problem.status, errors.headers(problem), errors.body(problem))
        else:
            await tell(wire, _shown(found, lora))
        return
    shown = [_shown(model, lora) for model in known.live() for lora in ("", *model.card.engine.loras)]
    pictures = frontend.registry.pictures
    shown += [Model(name, pictures[name].created) for name in live_painted(pictures) if name not in known.models]
    await tell(wire, ModelList(shown))


def _shown(model: Known[Text], lora: str) -> Model:
    card = model.card
    return Model(card.model + ADAPTER * bool(lora) + lora, card.created, model.context, owned_by=card.owned_by)


# --- Tokens ----------------------------------------------------------------------------------------------


async def tokenize(exchange: Exchange) -> None:
    """A text's tokens."""
    asked = await _asked(exchange, Kind.TOKENIZE)
    if not isinstance(asked, Tokenization):
        return
    found = _model(exchange, asked.model)
    if isinstance(found, Problem):
        await exchange.refuse(found)
        return
    model, text = found
    context = model.context
    if asked.chat is not None and asked.chat.clips:
        answer = await _tokenized_with_media(exchange, asked, model, text)
    elif _is_long(asked):
        answer = await asyncio.to_thread(_tokenized, asked, text, context)
    else:
        answer = _tokenized(asked, text, context)
    await (exchange.refuse(answer) if isinstance(answer, Problem) else exchange.answer(answer))


def _tokenized(asked: Tokenization, text: Text, context: int) -> bytes | Problem:
    tokens = tokens_of(asked, text)
    return tokens if isinstance(tokens, Problem) else _spelled(tokens, asked, text, context)


async def _tokenized_with_media(
    exchange: Exchange, asked: Tokenization, model: Known[Text], text: Text
) -> bytes | Problem:
    """As a conversation is served: a picture, a sound or a clip is as many placeholders as it fills positions."""
    assert asked.chat is not None
    cards = model.card.engine.media
    got = await exchange.frontend.attendant.get(asked.chat.clips, model.name, cards)
    if isinstance(got, Problem):
        return got
    sizes, ids = [part.size for part in got], {kind: card.token for kind, card in cards.items()}
    most = limits.SPELLED_TOKENS_MAX
    found = await asyncio.to_thread(prompt_with_media, asked, text, most, sizes, ids)
    return found if isinstance(found, Problem) else _spelled(found[0], asked, text, model.context)


def _spelled(tokens: list[int], asked: Tokenization, text: Text, context: int) -> bytes:
    spell = text.tokenizer.spell
    shown = [spell(token).decode("utf-8", "replace") for token in tokens] if asked.show_tokens else None
    return _encode(Tokenized(len(tokens), context, tokens, shown))


async def detokenize(exchange: Exchange) -> None:
    """The text of tokens."""
    asked = await _asked(exchange, Kind.DETOKENIZE)
    if not isinstance(asked, Detokenization):
        return
    found = _model(exchange, asked.model)
    if isinstance(found, Problem):
        await exchange.refuse(found)
        return
    model, text = found
    vocabulary = model.vocabulary
    if asked.tokens and max(asked.tokens) >= vocabulary:
        await exchange.refuse(invalid(f"`tokens` holds an id beyond the model's {vocabulary} tokens.", "tokens"))
        return
    if len(asked.tokens) > limits.SPELLED_TOKENS_MAX:
        message = f"`tokens` holds more than {limits.SPELLED_TOKENS_MAX} ids: send them in pieces."
        await exchange.refuse(invalid(message, "tokens", "text_too_long"))
        return
    decode = text.tokenizer.decode
    if len(asked.tokens) > limits.SPELLED_AT_ONCE_MAX:
        shown = await asyncio.to_thread(decode, asked.tokens, asked.skip_special)
    else:
        shown = decode(asked.tokens, asked.skip_special)
    await exchange.answer(_encode(Detokenized(shown)))


async def _asked(exchange: Exchange, kind: Kind) -> Parsed | None:
    """What the body asks for; None if it was refused."""
    bytes_max = exchange.frontend.settings.body_bytes_max
    body = await read_body(exchange.wire, bytes_max)
    found = body if isinstance(body, Problem) else await apart(len(body), parse, kind, body, bytes_max)
    if isinstance(found, Problem):
        await exchange.refuse(found)
        return None
    return found


def _model(exchange: Exchange, name: str) -> tuple[Known[Text], Text] | Problem:
    """The model of that name; without a name the only one."""
    known = exchange.frontend.registry.models
    if not name:
        there = known.live()
        if len(there) != 1:
            return invalid("Say which model: there is not exactly one.", "model", "missing_required_parameter")
        name = there[0].name
    model, text = known.models.get(name), known.text(name)
    if model is None:
        return exchange.frontend.registry.stranger(name)
    if text is None:
        return errors.no_worker(name)
    exchange.model = name
    return model, text


def _is_long(asked: Tokenization) -> bool:
    return asked.chat is not None or len(asked.prompt) > limits.ENCODE_BYTES_MAX
