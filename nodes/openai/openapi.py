"""Pure. `/openapi.json`, made of the structs that decode requests and encode answers, so that it cannot lie."""

import re
from typing import Any

import msgspec
from msgspec import Struct

from nodes.openai import embeddings, images, refusals, responses, schema
from nodes.openai.errors import Failure

_TEMPLATE = "#/components/schemas/{name}"
_REQUESTS = (
    *(schema.ChatRequest, schema.CompletionRequest, schema.EmbeddingsRequest),
    *(images.ImagesRequest, images.VideosRequest, schema.TokenizeRequest, schema.DetokenizeRequest),
)
_RESPONSES = (
    *(responses.ChatCompletion, responses.Completion, responses.ModelList, responses.Model),
    *(embeddings.EmbeddingList, images.ImageList, images.Video, responses.Tokenized, responses.Detokenized, Failure),
)


class Post(Struct, frozen=True):
    """An endpoint that takes a body."""

    path: str
    summary: str
    request: type
    response: type
    streams: bool = False
    refused: tuple[str, ...] = ()


POSTS = (
    Post(
        "/v1/chat/completions",
        "Answer a conversation. `tools` are shown to the model through its chat template; what it writes comes back as "
        "text, unparsed.",
        schema.ChatRequest,
        responses.ChatCompletion,
        True,
        refusals.CHAT,
    ),
    Post(
        "/v1/completions",
        "Continue texts or tokens.",
        schema.CompletionRequest,
        responses.Completion,
        True,
        refusals.COMPLETION,
    ),
    Post(
        "/v1/embeddings",
        "Vectors of texts. `dimensions` is for models whose vectors may be shortened.",
        schema.EmbeddingsRequest,
        embeddings.EmbeddingList,
        refused=refusals.EMBEDDINGS,
    ),
    Post(
        "/v1/images/generations",
        "Pictures of a text. The same seed makes the same picture. With `stream` each step is an event "
        "(`image_generation.progress`), and so is each picture (`image_generation.completed`). A `url` holds the "
        "picture itself.",
        images.ImagesRequest,
        images.ImageList,
        True,
        images.REFUSED,
    ),
    Post(
        "/v1/videos",
        "A clip of a text, as MP4. The answer comes when it is there; with `stream` each step is an event before it.",
        images.VideosRequest,
        images.Video,
        True,
        images.REFUSED_VIDEO,
    ),
    Post("/tokenize", "A text's tokens.", schema.TokenizeRequest, responses.Tokenized, refused=refusals.TOKENIZE),
    Post("/detokenize", "The text of tokens.", schema.DetokenizeRequest, responses.Detokenized),
)
GETS: dict[str, tuple[str, type | None, str]] = {
    "/v1/models": ("The models that are served here.", responses.ModelList, "application/json"),
    "/v1/models/{model}": ("One model.", responses.Model, "application/json"),
    "/health": ("Whether a request would be served.", None, "application/json"),
    "/ready": ("The same.", None, "application/json"),
    "/v1/streams/{name}": (
        "Continue a stream that is kept, because its request had an Idempotency-Key or a session header: with event "
        "`from`, or after the one in Last-Event-ID. The name is the answer's id.",
        None,
        "text/event-stream",
    ),
    "/live": ("Whether the process runs.", None, "application/json"),
    "/metrics": ("Prometheus metrics.", None, "text/plain"),
    "/version": ("The version of Wiremesh.", None, "application/json"),
}
EVENT = {
    "type": "object",
    "description": "An event: its data is a chunk as JSON, or [DONE].",
    "properties": {"data": {"type": "string"}, "id": {"type": "string"}},
}
CODES: dict[str, tuple[str, ...]] = {
    "/health": ("503",),
    "/ready": ("503",),
    "/v1/models": ("401",),
    "/v1/models/{model}": ("401", "404"),
    "/v1/streams/{name}": ("400", "401", "404", "410", "429", "500", "503", "504"),
}
PROBLEMS = {
    "400": "The request is wrong; `param` names where.",
    "401": "No valid API key.",
    "404": "There is no such thing.",
    "410": "It is not kept any more.",
    "413": "The body, or a picture, sound or clip in it, is too large.",
    "415": "The body is compressed in a way that is not understood.",
    "429": "Too many requests under this key.",
    "500": "The worker failed.",
    "503": "No worker is free, or none serves the model.",
    "504": "The deadline has passed.",
}


def document(version: str) -> dict[str, Any]:
    """The whole description."""
    _, components = msgspec.json.schema_components([*_REQUESTS, *_RESPONSES], ref_template=_TEMPLATE)
    paths: dict[str, Any] = {post.path: {"post": _post(post)} for post in POSTS}
    paths |= {path: {"get": _get(path, *about)} for path, about in GETS.items()}
    security = {"bearer": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Wiremesh", "version": version},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": security},
        "security": [{}, {"bearer": []}],
    }


def _post(post: Post) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _reference(post.response)}}
    if post.streams:
        content["text/event-stream"] = {"schema": EVENT}
    answers: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    refused = ", ".join(f"`{name}`" for name in post.refused)
    return {
        "summary": post.summary,
        "description": f"Known and refused with a 400 that names it: {refused}." if refused else "",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _reference(post.request)}}},
        "responses": answers | _problems(PROBLEMS),
    }


def _get(path: str, summary: str, response: type | None, media: str) -> dict[str, Any]:
    shape = {"type": "object"} if media == "application/json" else {"type": "string"}
    content = {media: {"schema": _reference(response) if response else shape}}
    codes = CODES.get(path, ())
    made: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "The answer.", "content": content}}
        | _problems({code: PROBLEMS[code] for code in codes}),
    }
    names = re.findall(r"{(\w+)}", path)
    if names:
        made["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if path.startswith("/v1/streams"):
        count = {"type": "integer", "minimum": 0}
        made["parameters"].append({"name": "from", "in": "query", "required": False, "schema": count})
    return made


def _problems(codes: dict[str, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": _reference(Failure)}}
    return {code: {"description": text, "content": content} for code, text in codes.items()}


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": _TEMPLATE.format(name=kind.__name__)}
