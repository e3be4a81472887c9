"""Shell. The ASGI application: from a path to its handler, and what holds for all of them (keys, CORS, errors)."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from nodes.frontend import headers, plain, streams
from nodes.frontend.completions import complete
from nodes.frontend.embeddings import embed
from nodes.frontend.exchange import Exchange
from nodes.frontend.frontend import Frontend
from nodes.frontend.images import imagine
from nodes.frontend.wire import Receive, Scope, Send, Wire, wire_of
from nodes.openai import errors
from nodes.openai.demand import Kind
from nodes.openai.errors import SERVER, Problem

Handler = Callable[[Frontend, Wire], Awaitable[None]]
Worked = Callable[[Exchange], Awaitable[None]]

INTERNAL = Problem(500, "An internal error occurred.", SERVER, None, "internal_error", retry=False)
EXPOSED = b"x-request-id, traceparent, retry-after, retry-after-ms, x-should-retry, x-wiremesh-stream, x-wiremesh-route"
PREFLIGHT_S = b"600"  # how long a browser may remember what it was told

log = logging.getLogger("wiremesh.frontend")


# Behind the keys, with a line in the log for each request.
POSTS: dict[str, Worked] = {
    "/v1/chat/completions": partial(complete, kind=Kind.CHAT),
    "/v1/completions": partial(complete, kind=Kind.COMPLETION),
    "/v1/embeddings": embed,
    "/v1/images/generations": imagine,
    "/v1/videos": imagine,
    "/tokenize": plain.tokenize,
    "/v1/tokenize": plain.tokenize,
    "/detokenize": plain.detokenize,
    "/v1/detokenize": plain.detokenize,
}
# Open to all, and too many to log.
GETS: dict[str, Handler] = {
    "/": plain.root,
    "/health": plain.health,
    "/ready": plain.health,
    "/live": plain.live,
    "/version": plain.version,
    "/metrics": plain.metrics,
    "/openapi.json": plain.openapi,
    "/docs": plain.docs,
}
MODELS, STREAMS = "/v1/models", "/v1/streams/"
READS = (b"GET", b"HEAD")


def app(frontend: Frontend) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The application of one frontend."""
    origins = frozenset(origin.encode() for origin in frontend.settings.cors_origins)

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")
        wire = wire_of(scope, receive, send)
        if origins:
            allow(wire, origins)
        try:
            await dispatch(frontend, wire)
        except Exception as error:  # a mistake of ours: one request is lost, and nothing else
            log.error("a mistake of ours, in %s", scope["path"], exc_info=error)
            if not wire.started:
                await refuse(wire, INTERNAL)

    return call


async def dispatch(frontend: Frontend, wire: Wire) -> None:
    """Find the handler."""
    path, method = wire.scope["path"], wire.scope["method"]
    post = POSTS.get(path)
    if method == "POST" and post is not None:
        await worked(frontend, wire, path, post)
    elif method in ("GET", "HEAD") and path in GETS:
        await GETS[path](frontend, wire)
    elif method in ("GET", "HEAD") and (path == MODELS or path.startswith(MODELS + "/")):
        await behind_keys(frontend, wire, plain.models)
    elif method == "GET" and path.startswith(STREAMS):
        await worked(frontend, wire, STREAMS, streams.stream)
    else:
        await otherwise(wire, path, method)


async def otherwise(wire: Wire, path: str, method: str) -> None:
    """A path or a method that is not there, or a question about them."""
    allowed = methods_of(path)
    if allowed:
        wire.extra.append((b"allow", b", ".join([*allowed, b"OPTIONS"])))
    if method == "OPTIONS":
        await wire.answer(204, []) if allowed or path == "*" else await refuse(wire, stray(path))
    elif allowed:
        await refuse(wire, errors.wrong_method(method))
    else:
        await refuse(wire, stray(path))


def stray(path: str) -> Problem:
    """A path that is not there: of clients whose base URL has no /v1 at its end, or two."""
    meant = next((one for one in (f"/v1{path}", path.removeprefix("/v1")) if one != path and methods_of(one)), "")
    return errors.no_route(path, meant)


def methods_of(path: str) -> tuple[bytes, ...]:
    """What may be done with a path."""
    if path in POSTS:
        return (b"POST",)
    if path in GETS or path == MODELS or path.startswith(MODELS + "/"):
        return READS
    return (b"GET",) if path.startswith(STREAMS) else ()


async def refuse(wire: Wire, problem: Problem) -> None:
    """An error in its usual shape."""
    await wire.answer(problem.status, errors.headers(problem), errors.body(problem))


# --- Keys ------------------------------------------------------------------------------------------------


def owner_of(frontend: Frontend, wire: Wire) -> str | None:
    """The name of the key that a request came with; None if it opens nothing."""
    if frontend.keyring is None:
        return ""
    name = frontend.keyring.name(headers.credential(wire.headers))
    if name is None:
        frontend.tally.count("unauthorized")
    return name


async def behind_keys(frontend: Frontend, wire: Wire, handler: Handler) -> None:
    """A handler that needs a key and nothing else."""
    if owner_of(frontend, wire) is None:
        await refuse(wire, errors.bad_key())
    else:
        await handler(frontend, wire)


async def worked(frontend: Frontend, wire: Wire, endpoint: str, handler: Worked) -> None:
    """A handler that needs a key, counts against its quota, and is written down."""
    key = owner_of(frontend, wire)
    exchange = Exchange(frontend, wire, endpoint, key or "")
    if key is None:
        await exchange.refuse(errors.bad_key())
        exchange.close()
        return
    wait_s = frontend.quotas.begin(key, exchange.began)
    if wait_s:
        frontend.tally.count("rate_limited")
        await exchange.refuse(errors.rate_limited(wait_s))
        exchange.close()
        return
    frontend.tally.in_flight += 1
    try:
        await handler(exchange)
    except Exception:
        exchange.status, exchange.outcome = INTERNAL.status, "internal_error"
        raise
    finally:
        frontend.tally.in_flight -= 1
        frontend.quotas.end(key)
        exchange.close()


# --- CORS ------------------------------------------------------------------------------------------------


def allow(wire: Wire, origins: frozenset[bytes]) -> None:
    """Tell a browser whether a page of this origin may read the answer."""
    origin = wire.headers.get(b"origin")
    if origin is None or (b"*" not in origins and origin not in origins):
        return
    wire.extra.append((b"access-control-allow-origin", b"*" if b"*" in origins else origin))
    if b"*" not in origins:
        wire.extra.append((b"vary", b"Origin"))
    wire.extra.append((b"access-control-expose-headers", EXPOSED))
    if wire.scope["method"] == "OPTIONS":
        asked = wire.headers.get(b"access-control-request-headers", b"")
        allowed = asked if asked else b"Authorization, Content-Type, *"
        wire.extra.append((b"access-control-allow-headers", allowed))
        wire.extra.append((b"access-control-allow-methods", b"GET, HEAD, POST, OPTIONS"))
        wire.extra.append((b"access-control-max-age", PREFLIGHT_S))
