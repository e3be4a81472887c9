"""Tiers below the caches of real workers: prompts come back from memory, disk and a store, also after a kill -9."""

import asyncio
import json
import random
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nodes.tiers.files import HEADER_BYTES, disk_bytes, names_in
from tests.nodes.tiers.fake_store import REGION, WHO, Store
from tests.real.processes import ROOT, Child
from tests.real.raw_http import COMPLETIONS, ask
from tests.real.serving import (
    AT_ONCE,
    MODEL,
    Frontend,
    Serving,
    eventually,
    mesh,
    metric,
    node_of,
    random_model,
    ready,
    says,
    served,
    span,
)

LENGTH = 161  # ten blocks and the token whose step gives the next
SMALL = ("--blocks", 40)  # of sixteen tokens: three prompts and their answers
ROOM = ("--kv-host-bytes", 1 << 20)


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    first, last = span()
    draw = random.Random(seed)
    return [[draw.randrange(first, last + 1) for _ in range(LENGTH)] for _ in range(count)]


async def said(front: Frontend, prompt: Sequence[int], **more: Any) -> tuple[str, int]:
    """The answer, and how much of the prompt need not be computed."""
    body = {"model": MODEL, "prompt": list(prompt), "max_tokens": 8, **more}
    answer = await ask(front.port, COMPLETIONS, body)
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]["text"], answer.json["usage"]["prompt_tokens_details"]["cached_tokens"]


async def all_said(front: Frontend, asked: Sequence[Sequence[int]], workers: int = 1) -> list[int]:
    """Ask one after another: what was cached of each. What a simulated worker answers is looked at."""
    await served(front, workers)
    cached = []
    for prompt in asked:
        text, count = await said(front, prompt)
        assert text == says(prompt, 8)
        cached.append(count)
    return cached


async def written(front: Frontend, tier: str, blocks: int) -> None:
    """Wait until so many blocks have been written behind."""
    await eventually(
        lambda: metric(front.port, "wiremesh_tier_written_blocks_total", tier=tier), lambda found: found >= blocks
    )


def on_disk(folder: Path) -> int:
    """Bytes of a disk that blocks have been written to."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if names_in(path.name)]
    return sum(disk_bytes(size - HEADER_BYTES) for size in sizes)


async def looked_through(front: Frontend, worker: Child, wanted: int) -> None:
    """Wait until a worker knows what another one has left on its disk."""
    name = "wiremesh_tier_used_bytes"
    await eventually(lambda: metric(front.port, name, node=node_of(worker), tier="disk"), lambda found: found >= wanted)


def a_worker(serving: Serving, name: str, *words: object) -> Child:
    child = serving.worker(name, *AT_ONCE, *SMALL, *ROOM, *words)
    ready(child)
    return child


def test_prompts_come_back_from_host_memory(tmp_path: Path) -> None:
    asked = prompts(8)
    with mesh(tmp_path) as serving:
        front = serving.frontend()
        worker = serving.worker("plain", *AT_ONCE, *SMALL)
        ready(worker)
        assert asyncio.run(all_said(front, asked * 2)) == [0] * 16
        worker.kill()
        a_worker(serving, "tiered")
        assert asyncio.run(all_said(front, asked * 2)) == [0] * 8 + [160] * 8
        hits = asyncio.run(metric(front.port, "wiremesh_tier_hit_blocks_total", tier="host"))
        assert hits >= 70, "the last prompts of the first round were still in the cache"
        assert asyncio.run(metric(front.port, "wiremesh_tier_used_bytes", tier="host")) > 0


@pytest.mark.parametrize("ending", ["killed", "told to leave"])
def test_a_restarted_worker_finds_its_disk(tmp_path: Path, ending: str) -> None:
    asked = prompts(8)
    disk = ("--kv-disk", f"{tmp_path / 'kv'}:10M", "--kv-uses", 1)
    with mesh(tmp_path) as serving:
        front = serving.frontend()
        first = a_worker(serving, "first", *disk)
        assert asyncio.run(all_said(front, asked)) == [0] * 8
        if ending == "killed":
            asyncio.run(written(front, "disk", 40))
            first.kill()
        else:
            first.signal(signal.SIGTERM)
            assert first.wait() == 0
        second = a_worker(serving, "second", *disk)
        asyncio.run(looked_through(front, second, on_disk(tmp_path / "kv")))
        cached = asyncio.run(all_said(front, asked))
        assert cached[:4] == [160] * 4
        if ending == "told to leave":
            assert cached == [160] * 8, "what was in the cache was written on leaving"


def test_workers_share_a_store(tmp_path: Path) -> None:
    asked = prompts(4)
    store = ("--kv-store", f"dir:{tmp_path / 'store'}")
    with mesh(tmp_path) as serving:
        front = serving.frontend()
        first = a_worker(serving, "first", *store)
        asyncio.run(all_said(front, asked * 2))
        asyncio.run(written(front, "store", 40))
        first.kill()
        a_worker(serving, "second", *store)
        assert asyncio.run(all_said(front, asked)) == [160] * 4


def test_workers_share_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", WHO.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WHO.secret)
    asked, store = prompts(4), Store()
    words = ("--kv-store", f"s3://kv-cache?endpoint={store.endpoint}&region={REGION}")
    try:
        with mesh(tmp_path) as serving:
            front = serving.frontend()
            first = a_worker(serving, "first", *words)
            asyncio.run(all_said(front, asked * 2))
            asyncio.run(written(front, "store", 40))
            first.kill()
            a_worker(serving, "second", *words)
            assert asyncio.run(all_said(front, asked)) == [160] * 4
            store.fault = "hang"
            assert asyncio.run(all_said(front, prompts(4, seed=1))) == [0] * 4, "nobody fails, and nobody waits twice"
            asyncio.run(failed(front, 1, tier="store", reason="slow"))
    finally:
        store.close()


async def failed(front: Frontend, count: int, **labels: str) -> None:
    """Wait until so much has gone wrong."""
    await eventually(lambda: metric(front.port, "wiremesh_tier_failures_total", **labels), lambda found: found >= count)


def test_a_disk_that_vanishes_costs_no_request(tmp_path: Path) -> None:
    asked = prompts(8)
    kv = tmp_path / "kv"
    with mesh(tmp_path) as serving:
        front = serving.frontend()
        a_worker(serving, "w", "--kv-disk", f"{kv}:10M", "--kv-uses", 1, "--kv-host-bytes", 4096)
        asyncio.run(all_said(front, asked))
        asyncio.run(written(front, "disk", 20))
        kv.rename(tmp_path / "gone")
        kv.write_text("a file")
        asyncio.run(all_said(front, asked * 2))
        asyncio.run(failed(front, 3, tier="disk"))
        marked = partial(metric, front.port, "wiremesh_tier_marked_total", tier="disk")
        asyncio.run(eventually(marked, lambda found: found >= 1))


def test_a_real_computation_comes_back(tmp_path: Path) -> None:
    """The numpy engine: the text is that of a worker without tiers, and the prompt is not computed again."""
    asked = prompts(6)
    with mesh(tmp_path) as serving:
        model = ("--engine", "numpy", "--exact", "--model", random_model(tmp_path / "real"), "--name-as", MODEL)
        small = ("--kv-bytes", 40 * 16 * 2 * 2 * 2 * 16 * 4)
        front = serving.frontend()

        async def texts(asked: Sequence[Sequence[int]]) -> list[tuple[str, int]]:
            await served(front, 1)
            return [await said(front, prompt, temperature=1.0, seed=5) for prompt in asked]

        plain = serving.start("worker", "--name", "plain", *model, *small)
        ready(plain)
        expected = asyncio.run(texts(asked))
        plain.kill()
        tiered = serving.start("worker", "--name", "tiered", *model, *small, *ROOM, *ROOM)
        ready(tiered)
        found = asyncio.run(texts(asked * 2))
        assert [text for text, _ in found] == [text for text, _ in expected] * 2
        assert [cached for _, cached in found[6:]] == [160] * 6


def test_routers_know_of_tiers(tmp_path: Path) -> None:
    """A prompt goes where it lies in host memory or on a disk, although it is in nobody's cache any more."""
    asked = prompts(12)
    with mesh(tmp_path) as serving:
        front = serving.frontend()
        router = serving.start("router", "--name", "r")
        ready(router)
        workers = [
            a_worker(serving, f"w{number}", "--kv-disk", f"{tmp_path / 'kv'}:10M", "--kv-uses", 1) for number in (1, 2)
        ]
        assert asyncio.run(all_said(front, asked, workers=2)) == [0] * 12
        asyncio.run(written(front, "disk", 30))
        assert asyncio.run(all_said(front, asked, workers=2)) == [160] * 12
        workers.pop().kill()
        again = a_worker(serving, "w3", "--kv-disk", f"{tmp_path / 'kv'}:10M", "--kv-uses", 1)

        async def candidates(prompt: Sequence[int]) -> list[dict[str, Any]]:
            """What a router knows about a prompt."""
            body = {"model": MODEL, "prompt": list(prompt), "max_tokens": 1}
            found = await ask(front.port, COMPLETIONS, body, x_wiremesh_explain="1")
            (route,) = json.loads(found.headers["x-wiremesh-route"])
            words = ["explain", route["request"], "--join", serving.join, "--json"]
            command = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "launch.cli", *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE
            )
            told = json.loads((await command.communicate())[0])
            return [one for stop in told["stops"] for one in stop["explanation"]["candidates"]]

        async def look() -> bool:
            """Whether it is known of one of them that it lies on the new worker's disk, and nowhere nearer."""
            await served(front, 2)
            for prompt in asked:
                known = [one for one in await candidates(prompt) if f"{one['node']:016x}" == node_of(again)]
                if known and known[0]["disk"] == 10 and known[0]["device"] == 0:
                    return True
            return False

        asyncio.run(eventually(look, bool))


def test_what_flags_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with mesh(tmp_path) as serving:
        for words, part in (
            (("--kv-disk", "/scratch"), "--kv-disk is '/scratch': it must be DIR:BYTES"),
            (("--kv-store", "ftp://x"), "--kv-store is 'ftp://x': it must be dir:PATH or s3://"),
            (("--kv-uses", 0), "--kv-uses is 0: it must be between 1 and 255"),
            (("--kv-disk", f"{tmp_path / 'file'}:1M"), "cannot be used for blocks"),
            (("--kv-host-bytes", 1), "less than one block"),
        ):
            child = serving.worker("w", *words)
            child.line(part)
            assert child.wait() > 2 and "Traceback" not in child.text, child.text
