"""The description is complete in itself and agrees with the structs."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from nodes.openai import images, refusals, schema
from nodes.openai.openapi import document

MADE = json.loads(msgspec.json.encode(document("1.2.3")))


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_reference_leads_somewhere() -> None:
    found = set(references(MADE))
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in MADE["components"]["schemas"]


def test_every_field_is_described() -> None:
    generating = (schema.ChatRequest, schema.CompletionRequest)
    others = (schema.EmbeddingsRequest, schema.TokenizeRequest, schema.DetokenizeRequest)
    for kind in (*generating, *others, images.ImagesRequest, images.VideosRequest):
        described = MADE["components"]["schemas"][kind.__name__]["properties"]
        assert list(described) == [field.name for field in msgspec.structs.fields(kind)]
    assert MADE["components"]["schemas"]["ChatRequest"]["required"] == ["model", "messages"]


def test_every_endpoint_answers_wrong_requests() -> None:
    posts = {path: about["post"] for path, about in MADE["paths"].items() if "post" in about}
    generating = {"/v1/chat/completions", "/v1/completions", "/v1/images/generations", "/v1/videos"}
    assert set(posts) == {*generating, "/v1/embeddings", "/tokenize", "/detokenize"}
    for about in posts.values():
        assert {"200", "400", "413", "503"} <= about["responses"].keys()
    assert all(f"`{name}`" in posts["/v1/chat/completions"]["description"] for name in refusals.CHAT)
