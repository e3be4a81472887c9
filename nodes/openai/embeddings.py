"""Pure. The answer of `/v1/embeddings`, which is written vector by vector, as they come."""

import struct
from base64 import b64encode

import msgspec
from msgspec import Struct

BASE64 = "base64"
FLOAT_BYTES = 4


class Embedding(Struct, kw_only=True):
    """The vector of one input: numbers, or base64 of them as float32, little endian."""

    object: str = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(Struct):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, kw_only=True):
    """The answer of `/v1/embeddings`, in the order of the inputs."""

    object: str = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


_encode = msgspec.json.Encoder().encode


def shown(index: int, content: bytes, encoding: str) -> bytes:
    """One vector of the answer."""
    if encoding == BASE64:
        return _encode(Embedding(index=index, embedding=b64encode(content).decode()))
    numbers = struct.unpack(f"<{len(content) // FLOAT_BYTES}f", content)
    return _encode(Embedding(index=index, embedding=list(numbers)))


def answer(parts: list[bytes], model: str, tokens: int) -> bytes:
    """The whole answer, of vectors that are written already."""
    empty = EmbeddingList(data=[], model=model, usage=EmbeddingsUsage(tokens, tokens))
    head, _, rest = _encode(empty).partition(b"[]")
    return head + b"[" + b",".join(parts) + b"]" + rest
