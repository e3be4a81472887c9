"""Who may have been given a cache that was fetched says nothing until it is known whose it is. Without vLLM."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from nodes.contract.engine import Job
from nodes.engines.vllm.doubts import Another, Doubts

PROMPT = [*range(100, 140)]


def doubts() -> Doubts:
    made = Doubts()
    made.block_tokens = 32
    return made


def alike(number: int, **more: Any) -> Job:
    return Job(number, [*PROMPT[:32], number], **more)


async def waits(speaking: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """It has begun, and is not through."""
    task = asyncio.ensure_future(speaking)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


@pytest.mark.parametrize("wrong", [True, False])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_who_begins_alike_waits_for_what_is_fetched(wrong: bool, before: bool) -> None:
    async def main() -> None:
        known = doubts()
        jobs = [(alike(number), number == before) for number in range(2)]  # the other fetches nothing
        with known.attempt(*_told(jobs[0])) as first, known.attempt(*_told(jobs[1])) as second:
            fetcher, other = (second, first) if before else (first, second)
            assert fetcher.fetched is not None
            task = await waits(known.speaks(other))
            fetcher.fetched.wrong = wrong
            if not wrong:
                await known.speaks(fetcher)
                await task
                return
        with pytest.raises(Another):
            await task

    asyncio.run(main())


def _told(asked: tuple[Job, bool]) -> tuple[Job, list[int], bool]:
    job, fetches = asked
    return job, [*job.prompt], fetches


def test_others_do_not_wait() -> None:
    async def main() -> None:
        known = doubts()
        others = (Job(9, PROMPT[1:]), alike(8, cache_salt="x"), alike(7, lora="y"))
        with known.attempt(alike(1), [*alike(1).prompt], True):
            for job in others:
                with known.attempt(job, [*job.prompt], False) as attempt:
                    await known.speaks(attempt)

    asyncio.run(main())


def test_one_that_ends_without_a_word_holds_up_nobody() -> None:
    async def main() -> None:
        known = doubts()
        with known.attempt(alike(2), [*alike(2).prompt], False) as other:
            with known.attempt(alike(1), [*alike(1).prompt], True):
                speaking = await waits(known.speaks(other))
                landing = await waits(known.landed())
            await speaking
            await landing
        assert not known._silent, "and nothing is remembered of it"

    asyncio.run(main())
