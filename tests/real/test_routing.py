"""Routers that know caches, as processes: conversations find their cache, late routers learn, decisions are told."""

import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nodes.engines.sim import continuation
from tests.real.processes import PATIENCE_S, ROOT, Child
from tests.real.raw_http import COMPLETIONS, Answer, ask
from tests.real.serving import (
    MODEL,
    PACED,
    Frontend,
    Serving,
    advised,
    answered,
    eventually,
    mesh,
    metric,
    node_of,
    ready,
    says,
    served,
    span,
)

BLOCK = 16
QUICK = ("--speedup", 20)  # a conversation of seconds in tenths of them


def prompt(seed: int, tokens: int) -> list[int]:
    first, last = span()
    draw = random.Random(seed)
    return [draw.randrange(first, last + 1) for _ in range(tokens)]


async def complete(front: Frontend, tokens: Sequence[int], count: int = 4, **headers: str) -> Answer:
    body = {"model": MODEL, "prompt": list(tokens), "max_tokens": count, "temperature": 0}
    found = await ask(front.port, COMPLETIONS, body, **headers)
    assert found.status == 200, found.body
    return found


def cached(found: Answer) -> int:
    return int(found.json["usage"]["prompt_tokens_details"]["cached_tokens"])


async def known(front: Frontend, routers: Sequence[Child], workers: int) -> None:
    """Wait until these routers know exactly what so many workers hold."""
    for router in routers:
        node = node_of(router)
        await eventually(
            partial(metric, front.port, "wiremesh_index_exact_ratio", node=node),
            lambda found: found == workers,
        )


async def learned(front: Frontend, router: Child, blocks: int) -> None:
    """Wait until a router has heard of so many blocks of workers that decode."""
    labels = {"node": node_of(router), "endpoint": f"generate/{MODEL}"}
    held = partial(metric, front.port, "wiremesh_index_held_blocks", **labels)
    await eventually(held, lambda found: found >= blocks)


def a_mesh(serving: Serving, routers: int, workers: int, *words: object) -> tuple[Frontend, list[Child], list[Child]]:
    made = [serving.worker(f"w{number}", *(words or QUICK)) for number in range(workers)]
    advisers = [serving.start("router", "--name", f"r{number}") for number in range(routers)]
    front = serving.frontend()
    ready(*made, *advisers)
    return front, advisers, made


class Talk:
    """A conversation that grows by what is said and answered, and what of it could have been cached."""

    def __init__(self, prefix: list[int], seed: int) -> None:
        self.tokens = list(prefix)
        self.seed = seed

    def say(self, turn: int) -> list[int]:
        self.tokens += prompt(1_000 * self.seed + turn, 40)
        return list(self.tokens)

    def hear(self, count: int) -> None:
        self.tokens += continuation(self.tokens, count, span())


@pytest.mark.parametrize("routers", [1, 2])
def test_conversations_find_their_cache(tmp_path: Path, routers: int) -> None:
    """16 shared prefixes of 8 turns each over 4 workers: nearly all that one cache of everything would have had.

    Those are left out that a frontend placed alone, as it does when a busy machine makes a router late.
    """

    async def run(front: Frontend) -> tuple[float, float, float]:
        talks = [Talk(prompt(seed, 320), seed) for seed in range(16)]
        ever: set[tuple[int, ...]] = set()
        got = best = asked = 0
        for turn in range(8):
            said = [talk.say(turn) for talk in talks]
            for tokens in said:
                blocks = [tuple(tokens[: end * BLOCK]) for end in range(1, (len(tokens) - 1) // BLOCK + 1)]
                best += BLOCK * sum(block in ever for block in blocks)
            answers = await asyncio.gather(*(complete(front, tokens, 24) for tokens in said))
            for talk, tokens, found in zip(talks, said, answers, strict=True):
                asked, got = asked + len(tokens), got + cached(found)
                talk.hear(24)
                whole = talk.tokens[:-1]  # nobody computes the last token's place before there is a next one
                ever |= {tuple(whole[: end * BLOCK]) for end in range(1, len(whole) // BLOCK + 1)}
        routed, late = await answered(front)
        return got / asked, best / asked, 1 - (routed - late) / (8 * len(talks))

    with mesh(tmp_path) as serving:
        front, advisers, _ = a_mesh(serving, routers, 4)
        asyncio.run(served(front, 4))
        asyncio.run(known(front, advisers, 4))
        ratio, best, alone = asyncio.run(run(front))
        assert best > 0.7 and ratio > 0.95 * best - alone, (ratio, best, alone)


def test_a_late_router_knows_soon(tmp_path: Path) -> None:
    async def fill(front: Frontend) -> None:
        await served(front, 4)
        for number in range(24):
            await complete(front, prompt(number, 200))

    async def again(front: Frontend) -> list[int]:
        return [cached(await complete(front, prompt(number, 200))) for number in range(24)]

    with mesh(tmp_path) as serving:
        front, (router,), _ = a_mesh(serving, 1, 4)
        asyncio.run(fill(front))
        router.kill()
        late = serving.start("router", "--name", "late")
        ready(late)
        began = time.monotonic()
        asyncio.run(known(front, [late], 4))
        assert time.monotonic() - began < 5.0  # 50 ms here
        blocks = asyncio.run(metric(front.port, "wiremesh_index_held_blocks", node=node_of(late)))
        assert blocks >= 24 * (200 // BLOCK)
        assert asyncio.run(advised(front, 24, lambda: again(front))) == [192] * 24


def test_a_shared_system_prompt_makes_no_hot_spot(tmp_path: Path) -> None:
    """All prompts begin alike, and all workers get their share of a crowd."""

    async def run(front: Frontend, routers: list[Child]) -> list[int]:
        await served(front, 4)
        await known(front, routers, 4)
        system = prompt(7, 640)
        await complete(front, system + prompt(8, 20))
        for wave in range(4):
            crowd = [complete(front, system + prompt(100 + 100 * wave + number, 40), 40) for number in range(32)]
            await asyncio.gather(*crowd)
        await complete(front, prompt(9, 20), x_request_id="last")
        front.line("last")
        chosen = [line["nodes"][0] for line in front.lines()][1:129]
        return sorted(chosen.count(node) for node in dict.fromkeys(chosen))

    with mesh(tmp_path) as serving:
        front, routers, _ = a_mesh(serving, 1, 4, *PACED)
        shares = asyncio.run(run(front, routers))
        assert len(shares) == 4 and shares[0] >= 16 and shares[-1] <= 64, shares  # 32 would be even, 128 a hot spot


def test_long_prompts_go_to_prefill_workers(tmp_path: Path) -> None:
    """The same text, whether the prompt was computed there or, because it was cached, where it is decoded."""

    tries = itertools.count()

    async def run(front: Frontend, router: Child) -> list[tuple[list[str], int]]:
        number = next(tries)
        found, seed = [], 3 * number
        await known(front, [router], 4)
        for tokens in (prompt(seed, 700), prompt(seed, 700) + prompt(seed + 1, 100), prompt(seed + 2, 60)):
            answer = await complete(front, tokens, 30, x_wiremesh_explain="1")
            assert answer.json["choices"][0]["text"] == says(tokens, 30)
            (route,) = json.loads(answer.headers["x-wiremesh-route"])
            found.append(([endpoint for endpoint, _ in route["stops"]], cached(answer)))
            await learned(front, router, number * 52 + 43)  # the first prompt's; the other two have nine more
        return found

    async def main(front: Frontend, router: Child) -> list[tuple[list[str], int]]:
        await served(front, 2)
        found: list[tuple[list[str], int]] = await advised(front, 3, lambda: run(front, router))
        return found

    with mesh(tmp_path) as serving:
        roles = ("decode", "decode", "prefill", "prefill")
        made = [serving.worker(f"w{number}", *QUICK, "--role", role) for number, role in enumerate(roles)]
        router = serving.start("router", "--disagg-tokens", 200)
        front = serving.frontend()
        ready(*made, router)
        there, here = [f"prefill/{MODEL}", f"generate/{MODEL}"], [f"generate/{MODEL}"]
        assert asyncio.run(main(front, router)) == [(there, 0), (here, 688), (here, 0)]


def test_refusals_of_routers_reach_clients(tmp_path: Path) -> None:
    """At once if all are busy; after some patience if prefill workers must be there and are not."""

    async def busy(front: Frontend, router: Child) -> Answer:
        await served(front, 1)
        await known(front, [router], 1)
        body = {"model": MODEL, "prompt": prompt(1, 400), "max_tokens": 2}
        first = asyncio.create_task(ask(front.port, COMPLETIONS, body))
        node = node_of(front.child)
        name = "wiremesh_frontend_requests_queued"
        await eventually(lambda: metric(front.port, name, node=node), lambda found: found == 1)
        second = await ask(front.port, COMPLETIONS, body)
        assert (await first).status == 200
        return second

    async def enforced(front: Frontend, router: Child) -> Answer:
        await known(front, [router], 1)
        return await ask(front.port, COMPLETIONS, {"model": MODEL, "prompt": prompt(1, 40), "max_tokens": 2})

    with mesh(tmp_path) as serving:
        worker = serving.worker("w", "--prefill-ms", "0:2000")
        router = serving.start("router", "--knob", "busy_prefill_tokens=50")
        front = serving.frontend()
        ready(worker, router)
        refused = asyncio.run(busy(front, router))
        assert refused.status == 503 and "all 1 that could take it are busy" in refused.error["message"]
        router.kill()
        strict = serving.start("router", "--enforce-disagg")
        ready(strict)
        refused = asyncio.run(enforced(front, strict))
        assert refused.status == 503 and "no prefill worker of org/tiny takes work" in refused.error["message"]


def explain(serving: Serving, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli", "explain", name, "--join", serving.join, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, check=False)


def test_decisions_are_told(tmp_path: Path) -> None:
    """By the header, and by `wiremesh explain` with each name that a request has."""

    async def run(front: Frontend, routers: list[Child]) -> Answer:
        await served(front, 2)
        await known(front, routers, 2)
        await complete(front, prompt(1, 100))
        await learned(front, routers[0], 6)
        names = (f"mine-{number}" for number in itertools.count(1))
        explained = partial(complete, front, prompt(1, 100), x_wiremesh_explain="1")
        found: Answer = await advised(front, 1, lambda: explained(x_request_id=next(names)))
        return found

    with mesh(tmp_path) as serving:
        front, (router,), workers = a_mesh(serving, 1, 2)
        found = asyncio.run(run(front, [router]))
        (route,) = json.loads(found.headers["x-wiremesh-route"])
        assert route["why"].startswith("kv: 6 of 7 blocks cached")
        ((endpoint, node),) = route["stops"]
        assert endpoint == f"generate/{MODEL}" and node in [node_of(worker) for worker in workers]
        mine = found.headers["x-request-id"]
        for name in (mine, found.json["id"], route["request"]):
            shown = explain(serving, name)
            assert shown.returncode == 0, shown.stderr
            assert "6 of 7 blocks cached" in shown.stdout and node in shown.stdout and "chosen" in shown.stdout
        (told,) = (json.loads(line) for line in explain(serving, mine, "--json").stdout.splitlines())
        candidates: list[dict[str, Any]] = told["stops"][0]["explanation"]["candidates"]
        assert [one["device"] for one in candidates if one["chosen"]] == [6] and len(candidates) == 2
        nobody = explain(serving, "nothing", "--wait-s", "0.5")
        assert nobody.returncode == 69 and "no frontend knows a request 'nothing'" in nobody.stderr


def test_a_request_says_how_it_wants_to_be_placed(tmp_path: Path) -> None:
    async def run(front: Frontend, routers: list[Child]) -> None:
        await served(front, 2)
        await known(front, routers, 2)
        body = {"model": MODEL, "prompt": prompt(1, 50), "max_tokens": 2}
        for more in ({"routing": {"overlap_credit": 0, "temperature": 0.5}}, {"nvext": {"agent_hints": {"osl": 5}}}):
            assert (await ask(front.port, COMPLETIONS, body | more)).status == 200
        wrong = await ask(front.port, COMPLETIONS, body | {"routing": {"temprature": 1}})
        assert wrong.status == 400 and "there is no knob 'temprature'" in wrong.error["message"]
        wrong = await ask(front.port, COMPLETIONS, body, x_wiremesh_routing="temperature")
        assert wrong.status == 400 and "NAME=NUMBER" in wrong.error["message"]

    with mesh(tmp_path) as serving:
        front, routers, _ = a_mesh(serving, 1, 2)
        asyncio.run(run(front, routers))
