"""What `wiremesh up` concludes of what a frontend answers."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest

from launch import look as looking
from launch.look import look
from launch.screen import Served

HEALTH = (200, b"{}")
MODELS = (200, b'{"data": [{"id": "tiny"}]}')
GOOD, UNSUITED, UNKNOWN, AWAY = (200, b"{}"), (400, b"no template"), (404, b"unknown"), (503, b"nobody")
EMBEDS = (UNSUITED, UNSUITED, GOOD)
SILENT = 0
PAINTS = (UNSUITED, UNSUITED, UNSUITED, GOOD)
FILMS = (UNSUITED, UNSUITED, UNSUITED, UNSUITED, GOOD)


async def seen(*answers: tuple[int, bytes]) -> Served:
    """Look once at a frontend that gives these answers, one after another, and no others."""
    left: Iterator[tuple[int, bytes]] = iter((HEALTH, MODELS, *answers))
    tasks: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        status, body = next(left)
        if status == SILENT:
            await reader.read()  # until the other side goes
            writer.close()
            return
        writer.write(b"HTTP/1.1 %d as told\r\n\r\n%s" % (status, body))
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        served = await look(f"http://127.0.0.1:{port}", None)
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)
    assert next(left, None) is None, "not all was asked for"
    return served


@pytest.mark.parametrize(
    ("answers", "chat", "embeds", "paints"),
    [
        ((GOOD,), True, False, ""),
        ((UNSUITED, GOOD), False, False, ""),
        (EMBEDS, True, True, ""),
        (PAINTS, True, False, "image"),
        (FILMS, True, False, "video"),
    ],
)
def test_what_a_model_makes_is_learned_from_what_it_refuses(
    answers: tuple[tuple[int, bytes], ...], chat: bool, embeds: bool, paints: str
) -> None:
    served = asyncio.run(seen(*answers))
    assert (served.model, served.chat, served.embeds, served.paints) == ("tiny", chat, embeds, paints)


@pytest.mark.parametrize("answer", [UNKNOWN, AWAY])
def test_one_of_several_frontends_that_knows_no_worker_yet_says_nothing_of_the_model(answer: tuple[int, bytes]) -> None:
    """It was once taken for a model without a chat template, and another frontend confirmed it."""
    with pytest.raises(OSError, match=f"is answered with {answer[0]}"):
        asyncio.run(seen(answer))


def test_a_picture_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine one takes minutes, and a first one of noise is larger than any answer of text."""
    monkeypatch.setattr(looking, "PAINT_S", 0.05)
    slow = b"too slow to be read"
    served = asyncio.run(seen(UNSUITED, UNSUITED, UNSUITED, (SILENT, slow)))
    assert served.paints == "image"
    large = asyncio.run(seen(UNSUITED, UNSUITED, UNSUITED, (200, bytes(2 * looking.ANSWER_BYTES_MAX))))
    assert large.paints == "image"
