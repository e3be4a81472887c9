"""Shell. Caches that were fetched and may not be their prompt's: who may have been given one waits until that is known.

What vLLM fetches lies in its cache, under the prompt's name, before the first token shows whether it is that prompt's.
Whoever begins alike may be given it meanwhile, and words that were said cannot be taken back.
"""

import asyncio
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct, field

from nodes.contract.engine import Job


class Doubt(Struct, eq=False):
    """Something that is fetched."""

    known: asyncio.Event = field(default_factory=asyncio.Event)
    wrong: bool = False


class Attempt(Struct, eq=False):
    """To run a job."""

    name: Hashable  # of its first block
    fetched: Doubt | None  # by itself
    doubts: list[Doubt]  # about what it may be given
    spoke: bool = False


class Another(Exception):
    """What a job was given is the cache of another prompt."""


class Doubts:
    """Of one engine."""

    def __init__(self) -> None:
        self.block_tokens = 1
        self._silent: dict[Hashable, list[Attempt]] = {}  # by name

    @contextmanager
    def attempt(self, job: Job, tokens: Sequence[int], fetches: bool) -> Iterator[Attempt]:
        """While a job runs. Whoever begins alike is in doubt about what it fetches until its first words."""
        name = (job.lora, job.cache_salt, *tokens[: self.block_tokens])
        alike = self._silent.setdefault(name, [])
        attempt = Attempt(name, Doubt() if fetches else None, [one.fetched for one in alike if one.fetched is not None])
        if attempt.fetched is not None:
            for other in alike:
                other.doubts.append(attempt.fetched)
        alike.append(attempt)
        try:
            yield attempt
        finally:
            self._over(attempt)

    async def speaks(self, attempt: Attempt) -> None:
        """What it fetched itself is right. Raises Another if something else that it may have been given is not."""
        self._over(attempt)
        for doubt in attempt.doubts:
            await doubt.known.wait()
        if any(doubt.wrong for doubt in attempt.doubts):
            raise Another
        attempt.spoke = True

    async def landed(self) -> None:
        """Of all that is fetched now it is known whether it is right."""
        for doubt in [one.fetched for alike in self._silent.values() for one in alike if one.fetched is not None]:
            await doubt.known.wait()

    def _over(self, attempt: Attempt) -> None:
        if attempt.fetched is not None:
            attempt.fetched.known.set()
        alike = self._silent.get(attempt.name, [])
        if attempt in alike:
            alike.remove(attempt)
            if not alike:
                del self._silent[attempt.name]
