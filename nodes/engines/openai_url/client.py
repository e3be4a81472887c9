"""Shell. Asks a server, and tells whose fault it was if nothing came of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from nodes.engines.openai_url.http import Place, Unreachable, asking
from nodes.engines.openai_url.wire import Dialect, Events, Said, Way, error_of, said
from nodes.engines.outside import EngineRefused, JobLost, JobMoved

ELSEWHERE = (401, 403, 408, 429)  # and from 500 on: not the request's fault, so that another worker may do it


async def fetched(place: Place, path: str) -> tuple[int, bytes]:
    """What is there. Raises Unreachable."""
    async with asking(place, path) as answer:
        return answer.status, await answer.whole()


async def answers(place: Place, dialect: Dialect, body: bytes) -> AsyncIterator[Said]:
    """What a server says to a request. Raises JobMoved if it is gone, JobLost if it is busy or broken, and ValueError
    for what another server would refuse too."""
    place = place.root if dialect.way is Way.OLLAMA else place
    try:
        async with asking(place, dialect.path, body) as answer:
            if answer.status != 200:
                text = f"the server says {answer.status}: {sentence(await answer.whole())}"
                raise JobLost(text) if answer.status in ELSEWHERE or answer.status >= 500 else ValueError(text)
            events = Events()
            async for content in answer.pieces():
                for event in events.feed(content):
                    if (one := said(event)) is None:
                        return
                    yield _sound(one)
            for event in events.finish():
                if (one := said(event)) is not None:
                    yield _sound(one)
    except Unreachable as error:
        raise JobMoved(str(error)) from None


def _sound(one: Said) -> Said:
    if one.error:
        raise JobLost(f"the server broke off: {one.error}")
    return one


def sentence(content: bytes) -> str:
    """What an answer that is an error says."""
    try:
        found = msgspec.json.decode(content)
        return error_of(found if isinstance(found, dict) else {"error": found})
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return error_of({"error": content[:1000].decode("utf-8", "replace")})


def key_of(path: str) -> str:
    """The server's API key, from its file. Raises EngineRefused."""
    if not path:
        return ""
    try:
        key = Path(path).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineRefused(f"--url-key-file {path} cannot be read: {error}") from None
    if not key or len(key.split()) != 1 or not key.isascii():
        raise EngineRefused(f"--url-key-file {path} must hold one key, and nothing else")
    return key
