"""Shell. Finds out what a server can do, by asking it: which model, how it takes prompts, how it gives tokens."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from nodes.contract.engine import Job, Sampling
from nodes.engines.openai_url.client import answers, fetched, sentence
from nodes.engines.openai_url.guides import OLLAMA, RARE_TOKENS, TONGUES, guided, understood
from nodes.engines.openai_url.http import Place, Unreachable
from nodes.engines.openai_url.wire import WAYS, Dialect, Said, Way, asked
from nodes.engines.outside import EngineRefused, JobLost
from nodes.text.tokenizer import Tokenizer

CONTEXT = 4_096  # positions, where nobody says; and what Ollama takes by itself
WAIT_S = 600.0  # for a server that is not up yet: a large model loads for minutes
AGAIN_S = 0.5
PROBE = "The quick brown fox"
PROBE_TOKENS = 2
OURS = "wiremesh"  # who owns its models

log = logging.getLogger("wiremesh.url")


class Settings(Struct, frozen=True):
    """Which server, and how it is to be used."""

    place: Place
    model: str  # its name there; empty: the only one, or the one that `name` says
    name: str  # the model's name here
    slots: int = 0
    context: int = 0
    wait_s: float = WAIT_S


async def find(settings: Settings, tokenizer: Tokenizer) -> Dialect:
    """Ask what is there, as soon as it is up. Raises EngineRefused."""
    place = settings.place
    models = {str(one["id"]): one for one in await _listed(settings) if isinstance(one, dict) and "id" in one}
    wanted = settings.model or (next(iter(models)) if len(models) == 1 else settings.name)
    if wanted not in models:
        known = ", ".join(models) or "none"
        raise EngineRefused(f"{place.url} has no model {wanted!r}: choose one with --url-model, of {known}")
    found = models[wanted]
    owner = str(found.get("owned_by", ""))
    ollama = owner == "library" and (await fetched(place.root, "/api/version"))[0] == 200
    theirs = CONTEXT if ollama and not settings.context else found.get("max_model_len")
    theirs = theirs or (found.get("meta") or {}).get("n_ctx_train")
    limits = [settings.context, int(theirs or 0), tokenizer.context]
    context = min([limit for limit in limits if limit > 0], default=CONTEXT)
    return await _probed(place, Dialect(wanted, owner, context=context), tokenizer, ollama)


async def _listed(settings: Settings) -> list[Any]:
    """The server's models."""
    url, patience = settings.place.url, time.monotonic() + settings.wait_s
    told = ""
    while True:
        try:
            status, content = await fetched(settings.place, "/models")
            found = list(msgspec.json.decode(content)["data"] or ()) if status == 200 else []
            if found:
                return found
            if 300 <= status < 500:
                raise EngineRefused(f"{url}/models says {status}: {sentence(content)}")
            why = "it serves no model" if status == 200 else f"it says {status}"
        except Unreachable as error:
            why = str(error)
        except (msgspec.DecodeError, KeyError, TypeError):
            raise EngineRefused(f"{url}/models is no list of models: --url is the server's /v1") from None
        if why != told:
            log.warning("waiting for a server at %s: %s", url, why)
        told = why
        if time.monotonic() > patience:
            raise EngineRefused(f"no server at {url} within {settings.wait_s:.0f} s: {why}")
        await asyncio.sleep(AGAIN_S)


async def _probed(place: Place, dialect: Dialect, tokenizer: Tokenizer, ollama: bool) -> Dialect:
    """The best way in which it answers."""
    prompt, why = tokenizer.encode(PROBE, add_special=False), ""
    job = Job(None, prompt, max_tokens=PROBE_TOKENS, sampling=Sampling(temperature=0.0))
    for way in [Way.OLLAMA] if ollama else WAYS:
        for takes_ids in (False,) if ollama else (True, False):
            tried = replace(dialect, way=way, takes_ids=takes_ids)
            body = asked(tried, job, prompt if takes_ids else PROBE, PROBE_TOKENS)
            try:
                found = [one async for one in answers(place, tried, body)]
            except ValueError as error:  # It does not speak so.
                why = str(error)
                continue
            except JobLost as error:
                raise EngineRefused(f"{place.url} does not answer a first request: {error}") from None
            if way in (Way.TEXT, Way.OLLAMA) or any(one.tokens for one in found):
                _check(place, tokenizer, found, len(prompt) if takes_ids else 0)
                seeds = dialect.owner != OURS or await _heeds_seeds(place, tried)
                return replace(tried, seeds=seeds, tongue=await _tongue(place, tried, tokenizer))
    raise EngineRefused(f"{place.url} does not take completions: {why}")


async def _tongue(place: Place, dialect: Dialect, tokenizer: Tokenizer) -> str:
    """How this server is told what an answer must be; empty if in no way."""
    prompt = tokenizer.encode(PROBE, add_special=False)
    for name, tongue in (OLLAMA if dialect.way is Way.OLLAMA else TONGUES).items():
        job = Job(None, prompt, sampling=Sampling(temperature=0.0))
        words = guided(name, tongue.probe)
        body = asked(dialect, job, prompt if dialect.takes_ids else PROBE, RARE_TOKENS, words)
        try:
            found = [one async for one in answers(place, dialect, body)]
        except (ValueError, JobLost):  # It does not speak so, and some break at what they do not know.
            continue
        if understood("".join(one.text for one in found)):
            return name
    return ""


async def _heeds_seeds(place: Place, dialect: Dialect) -> bool:
    """Whether a mesh of ours takes a seed: it refuses one that its engine would forget."""
    body = asked(dialect, Job(None, ()), PROBE, 1)
    try:
        async for _ in answers(place, dialect, body):
            pass
    except ValueError as error:
        return "`seed`" not in str(error)
    except JobLost as error:
        raise EngineRefused(f"{place.url} does not answer a second request: {error}") from None
    return True


def _check(place: Place, tokenizer: Tokenizer, found: Sequence[Said], length: int) -> None:
    """Refuse a server whose tokens mean something else than ours."""
    tokens = [token for one in found for token in one.tokens or ()]
    text, counted = "".join(one.text for one in found), max((one.prompt_tokens for one in found), default=-1)
    beyond = any(not 0 <= token < tokenizer.vocabulary for token in tokens)
    differs = beyond or (tokens and text and tokenizer.decode(tokens).strip() != text.strip())
    if differs or (length and counted not in (-1, length, length + 1)):  # some put a first token before it
        raise EngineRefused(f"the tokens of {place.url} are not those of --model: it must be the model that is there")
