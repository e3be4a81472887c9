"""Prefill and decode apart, as real processes: the same texts as together, whatever dies, freezes or leaves."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import pytest

from tests.real.crowd import KINDS, TOKENS, crowd, several
from tests.real.processes import Child
from tests.real.raw_http import CHAT, Told, ask
from tests.real.serving import (
    MODEL,
    PACED,
    Frontend,
    Serving,
    advised,
    chat,
    eventually,
    mesh,
    metric,
    node_of,
    random_model,
    ready,
    says,
    served,
)

RANDOM = "org/random"
ALWAYS = ("--disagg-tokens", 0)  # each prompt goes to a prefill worker, while there is one
IN_PIECES = ("--step-tokens", 16, "--slots", 16, "--prefill-ms", "0:25")  # so that a prompt is under way for a while
STAGING = "wiremesh_transfer_staging_blocks"
BLOCK_TOKENS = 16  # of a decode worker: the second answer to one prompt waits for the first's blocks but the last
CROWD = sum(2 if kind is several else 1 for kind in KINDS) + 1  # sequences of a crowd
CROWDS = count()
LONG = "a prompt that takes a while " * 12


class House(NamedTuple):
    """What all tests here share: a router, and a frontend."""

    mesh: Serving
    front: Frontend


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with mesh(tmp_path_factory.mktemp("topologies")) as there:
        router = there.start("router", *ALWAYS)
        front = there.frontend()
        ready(router)
        yield House(there, front)


def workers(house: House, role: str, number: int, *words: object) -> list[Child]:
    """So many, not waited for."""
    return [house.mesh.worker(f"{role}{one}", "--role", role, *words) for one in range(number)]


async def apart(house: House, fed: list[Child], model: str = MODEL) -> None:
    """Wait until requests are walked from a prefill worker to a decode worker."""

    tries = count()

    async def walked() -> bool:
        name = f"walk-{id(fed)}-{next(tries)}"
        await ask(house.front.port, CHAT, {**chat(name, 2), "model": model}, x_request_id=name)
        return len(house.front.line(name).get("nodes", ())) == 2

    ready(*fed)
    await served(house.front, len(fed), model)
    await eventually(walked, bool)


async def nothing_left(front: Frontend) -> None:
    """All staging memory is free again, and none of it is lost."""

    async def used() -> float:
        states = ("offered", "pulling", "engine")
        return sum([await metric(front.port, STAGING, state=state) for state in states])

    await eventually(used, lambda found: found == 0)
    assert await metric(front.port, "wiremesh_transfer_leaked_blocks") == 0
    await eventually(partial(metric, front.port, "wiremesh_engine_active_requests"), lambda found: found == 0)


async def prefilled(front: Frontend) -> float:
    """How many positions of prompts were computed where they are decoded."""
    return await metric(front.port, "wiremesh_engine_tokens_total", role="decode", kind="prefilled")


async def moved(front: Frontend, event: str) -> float:
    return await metric(front.port, "wiremesh_transfer_handovers_total", event=event)


# --- Nothing happens ---------------------------------------------------------------------------------------


async def crowd_apart(front: Frontend) -> tuple[list[dict[str, Any]], float]:
    """What is told of a crowd, and how many positions of its prompts were computed where they are decoded."""
    before = await prefilled(front)
    lines = await crowd(front, f"apart-{next(CROWDS)}", lambda: None)
    return lines, await prefilled(front) - before


def test_a_crowd_is_served_apart(house: House) -> None:
    async def main() -> None:
        await apart(house, decode)
        lines, here = await advised(house.front, CROWD, partial(crowd_apart, house.front))
        assert all(line["nodes"][0] == node_of(prefill[0]) for line in lines)
        assert here <= BLOCK_TOKENS
        pulled = await moved(house.front, "pulled")
        await eventually(partial(moved, house.front, "fetched"), lambda found: found == pulled > 0)
        await nothing_left(house.front)

    with house.mesh.moment():
        prefill, decode = workers(house, "prefill", 1, *PACED), workers(house, "decode", 1, *PACED)
        asyncio.run(main())


def test_blocks_of_other_sizes_and_the_bulk_transport(house: House) -> None:
    async def main() -> None:
        await apart(house, decode)
        _, here = await advised(house.front, CROWD, partial(crowd_apart, house.front))
        assert await metric(house.front.port, "wiremesh_transfer_received_bytes_total", way="bulk") > 0
        assert here <= 2 * BLOCK_TOKENS
        await nothing_left(house.front)

    with house.mesh.moment():
        workers(house, "prefill", 1, *PACED, "--block-tokens", 8, "--transports", "bulk")
        decode = workers(house, "decode", 1, *PACED, "--block-tokens", 2 * BLOCK_TOKENS, "--transports", "bulk")
        asyncio.run(main())


def test_a_model_that_computes_says_the_same(house: House) -> None:
    """Greedy and sampled, with choices and penalties: together, and apart."""
    front, model = house.front, random_model(house.mesh.folder / "random")
    common = {"model": RANDOM, "ignore_eos": True}
    bodies: list[dict[str, Any]] = [
        {**chat(LONG + "greedy", 60), **common, "temperature": 0},
        {**chat(LONG + "warm", 60), **common, "temperature": 0.8, "seed": 11},
        {**chat("two", 60), **common, "temperature": 0.8, "seed": 12, "n": 2, "top_p": 0.9, "top_k": 50},
        {**chat("held", 60), **common, "temperature": 0.8, "seed": 13, "frequency_penalty": 0.5, "min_p": 0.01},
    ]
    words = ("--model", model, "--name-as", RANDOM, "--exact")

    salts = count()  # no try finds what another has cached

    async def texts() -> list[list[str]]:
        salt = {"cache_salt": str(next(salts))}
        found = await asyncio.gather(*(ask(front.port, CHAT, {**body, **salt}) for body in bodies))
        return [[choice["message"]["content"] for choice in one.json["choices"]] for one in found]

    async def together() -> list[list[str]]:
        await served(front, 1, RANDOM)
        return await texts()

    async def main() -> None:
        await served(front, 1, RANDOM)
        await apart(house, [decode], RANDOM)

        async def here() -> float:
            before = await prefilled(front)
            assert await texts() == alone
            return await prefilled(front) - before

        sequences = sum(body.get("n", 1) for body in bodies)
        await eventually(partial(advised, front, sequences, here), lambda computed: computed == 0)
        await nothing_left(front)

    with house.mesh.moment():
        ready(house.mesh.start("worker", "--name", "alone", *words))
        alone = asyncio.run(together())
    with house.mesh.moment():
        started = [house.mesh.start("worker", "--name", role, "--role", role, *words) for role in ("prefill", "decode")]
        ready(*started)
        decode = started[1]
        asyncio.run(main())


# --- Something happens -------------------------------------------------------------------------------------


async def streams(house: House, name: str, disturb: Callable[[], Any], when: Callable[[], Any]) -> list[Told]:
    """Some with long prompts, disturbed when `when` says so; all must be whole."""
    texts = [f"{name} {number} {LONG}" for number in range(4)]
    tolds = [Told() for _ in texts]
    async with asyncio.TaskGroup() as group:
        for text, told in zip(texts, tolds, strict=True):
            group.create_task(told.run(house.front.port, CHAT, chat(text, TOKENS, stream=True)))
        await eventually(when, bool)
        disturb()
    for text, told in zip(texts, tolds, strict=True):
        assert told.complete and told.error is None and told.texts == [says(text, TOKENS)]
    return tolds


@pytest.mark.parametrize("how", ["kill", "freeze", "drain"])
def test_prefill_is_lost_while_it_computes_and_while_its_blocks_move(house: House, how: str) -> None:
    """The next one computes the prompt again, or the decode worker computes what is missing."""
    front = house.front
    signals = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "drain": signal.SIGTERM}

    async def main() -> None:
        await apart(house, decode)
        pulled = partial(metric, front.port, STAGING, role="decode", state="pulling")
        await streams(house, f"transfer {how}", partial(victim.signal, signals[how]), pulled)
        if how == "freeze":
            victim.signal(signal.SIGCONT)
        await nothing_left(front)

    with house.mesh.moment():
        [victim] = workers(house, "prefill", 1, *PACED[:2], *IN_PIECES)
        decode = workers(house, "decode", 2, *PACED)
        asyncio.run(main())


def test_decode_is_killed_while_it_waits_and_while_it_decodes(house: House) -> None:
    front = house.front

    async def main() -> None:
        await apart(house, decode)
        victims: list[Child] = []

        async def waits() -> bool:
            for child in decode:
                if await metric(front.port, STAGING, node=node_of(child), state="pulling"):
                    victims.append(child)
                    return True
            return False

        async def kill_the_busiest() -> None:
            left = [child for child in decode if child is not victims[0]]
            running = [await metric(front.port, "wiremesh_engine_active_requests", node=node_of(one)) for one in left]
            victims.append(left[running.index(max(running))])
            victims[1].signal(signal.SIGKILL)

        await streams(house, "waiting", lambda: victims[0].signal(signal.SIGKILL), waits)
        await served(front, 2)
        tasks: list[asyncio.Task[None]] = []
        lines = await crowd(front, "decoding", lambda: tasks.append(asyncio.create_task(kill_the_busiest())))
        await tasks[0]
        assert any(node_of(victims[1]) in line["nodes"] for line in lines)
        await nothing_left(front)

    with house.mesh.moment():
        workers(house, "prefill", 1, *PACED[:2], *IN_PIECES)
        decode = workers(house, "decode", 3, *PACED)
        asyncio.run(main())


def test_who_computes_no_prompt_is_fed_again(house: House) -> None:
    """Decode workers are killed: who goes on at another has to be walked by a prefill worker first, router or not."""
    front = house.front

    async def main() -> None:
        await apart(house, decode)
        gone: list[Child] = []

        async def seen(name: str, state: str) -> bool:
            for child in decode:
                if child not in gone and await metric(front.port, name, node=node_of(child), state=state):
                    gone.append(child)
                    return True
            return False

        for name, state in ((STAGING, "pulling"), ("wiremesh_engine_active_requests", "running")):
            await streams(house, f"fed {state}", lambda: gone[-1].signal(signal.SIGKILL), partial(seen, name, state))
        await nothing_left(front)

    with house.mesh.moment():
        workers(house, "prefill", 1, *PACED[:2], *IN_PIECES)
        decode = workers(house, "decode", 3, *PACED, "--enforce-disagg")
        asyncio.run(main())


def test_who_leaves_hands_its_cache_over(house: House) -> None:
    """Nothing of it is computed again."""
    front = house.front

    async def main() -> None:
        await served(front, 2)
        lines = await crowd(front, "leaves", partial(leaves.signal, signal.SIGTERM), node_of(leaves))
        assert all(line["nodes"] == [node_of(leaves), node_of(stays)] for line in lines)
        assert leaves.wait() == 0
        tokens = partial(metric, front.port, "wiremesh_engine_tokens_total", node=node_of(stays))
        assert await tokens(kind="prefilled") == 0 and await tokens(kind="resumed") > 0
        assert await metric(front.port, "wiremesh_transfer_landed_tokens_total", node=node_of(stays)) > 0
        await nothing_left(front)

    with house.mesh.moment():
        leaves, stays = (house.mesh.worker(name, *PACED) for name in ("leaves", "stays"))
        ready(leaves, stays)
        asyncio.run(main())


def test_a_model_that_computes_hands_its_cache_over(house: House) -> None:
    """Sampled, and nothing of it is cached where it goes on: the cache comes with it."""
    front, model = house.front, random_model(house.mesh.folder / "leaving")
    body = {**chat(LONG, 120), "model": RANDOM, "ignore_eos": True, "stream": True, "temperature": 0.8, "seed": 5}

    async def main() -> None:
        await served(front, 2, RANDOM)
        alone = await Told().run(front.port, CHAT, body, x_wiremesh_worker=node_of(stays))
        tokens = partial(metric, front.port, "wiremesh_engine_tokens_total", node=node_of(stays), kind="prefilled")
        before, told = await tokens(), Told()
        running = asyncio.create_task(told.run(front.port, CHAT, body, x_wiremesh_worker=node_of(leaves)))
        await told.until(30)
        leaves.signal(signal.SIGTERM)
        await running
        assert told.complete and told.texts == alone.texts
        assert leaves.wait() == 0 and await tokens() == before > 0
        await nothing_left(front)

    with house.mesh.moment():
        words = ("--model", model, "--name-as", RANDOM, "--no-caching")
        leaves, stays = (house.mesh.start("worker", "--name", name, *words) for name in ("goes", "keeps"))
        ready(leaves, stays)
        asyncio.run(main())
