"""Large bodies: inflated in pieces, and read apart from the loop, so that the streams beside them go on."""

import gzip
import json
import threading
import zlib
from collections.abc import Callable
from random import Random
from types import ModuleType
from typing import Any

import pytest

from nodes.frontend import bodies, completions, embeddings, limits, plain
from nodes.frontend.bodies import PIECE_BYTES, inflated
from nodes.openai.errors import Problem
from tests.nodes.frontend.fakes import CHAT, TEXT, House, chat, prompt, served

MIB = 1 << 20


class Recorder:
    """zlib's, and how much it was given and gave at once."""

    def __init__(self, window: int, inner: Callable[[int], Any] = zlib.decompressobj) -> None:
        self.inner = inner(window)
        self.given: list[int] = []
        self.made: list[int] = []

    def decompress(self, data: bytes, most: int) -> bytes:
        made: bytes = self.inner.decompress(data, most)
        self.given.append(len(data))
        self.made.append(len(made))
        return made

    eof = property(lambda self: self.inner.eof)
    unconsumed_tail = property(lambda self: self.inner.unconsumed_tail)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    made: list[Recorder] = []

    def begin(window: int) -> Recorder:
        made.append(Recorder(window))
        return made[-1]

    monkeypatch.setattr(zlib, "decompressobj", begin)
    return made


def test_it_is_inflated_in_pieces_and_no_further_than_the_limit(recorded: list[Recorder]) -> None:
    noise = Random(1).randbytes(3 * MIB)
    assert inflated(gzip.compress(noise, 1), b"gzip", 4 * MIB) == noise
    bomb = inflated(gzip.compress(bytes(64 * MIB)), b"gzip", 2 * MIB)
    assert isinstance(bomb, Problem) and bomb.status == 413
    for one in recorded:
        assert max(one.given) <= PIECE_BYTES and max(one.made) <= PIECE_BYTES
    assert sum(recorded[1].made) <= 2 * MIB + PIECE_BYTES


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 3 * PIECE_BYTES])
def test_whatever_the_size_it_comes_out_as_it_went_in(size: int, extra: int) -> None:
    size = max(size + extra, 0)
    for body in (bytes(size), Random(size).randbytes(size)):
        for encoding, packed in ((b"gzip", gzip.compress(body)), (b"deflate", zlib.compress(body))):
            assert inflated(packed, encoding, size) == body
            assert inflated(packed + b"and what follows" * PIECE_BYTES, encoding, size) == body
            cut = inflated(packed[:-5], encoding, size)
            assert isinstance(cut, Problem) and cut.status == 400
            if size:
                over = inflated(packed, encoding, size - 1)
                assert isinstance(over, Problem) and over.status == 413


@pytest.mark.parametrize("path", [CHAT, TEXT, "/v1/embeddings", "/tokenize"])
def test_a_large_one_is_read_in_another_thread_than_the_streams(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, list[bool]] = {"inflated": [], "parse": [], "digest": []}

    def watched(module: ModuleType, name: str) -> None:
        work = getattr(module, name)

        def noted(*given: Any) -> Any:
            threads[name].append(threading.current_thread() is threading.main_thread())
            return work(*given)

        monkeypatch.setattr(module, name, noted)

    watched(bodies, "inflated")
    watched(completions, "digest")
    for module in (completions, embeddings, plain):
        watched(module, "parse")

    async def test(there: House) -> None:
        padding = " " * limits.PARSE_BYTES_MAX
        asked = json.dumps(chat() if path == CHAT else prompt())
        for body in (asked, asked + padding):
            packed = gzip.compress(body.encode())
            await there.post(path, packed, content_encoding="gzip", idempotency_key=f"key {len(body)}")

    served(test)
    assert threads["parse"] == [True, False] and threads["inflated"][-1] is False
    assert threads["digest"] == ([True, True, False, False] if path in (CHAT, TEXT) else [])
