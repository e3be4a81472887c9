"""The transformers engine in real processes: a picture through an encoder, a prefill and a decode worker, and through
one worker alone, says the same; and JSON goes on when its worker is killed in the middle of it. Needs torch: see
tests/nodes/engines/test_transformers.py."""

import asyncio
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from launch.demo_model.senses import make
from tests.real.serving import mesh, node_of, served
from tests.real.test_media import NAME, REQUESTS, place

pytestmark = [
    pytest.mark.skipif(not (find_spec("torch") and find_spec("transformers")), reason="needs torch and transformers"),
    pytest.mark.filterwarnings("ignore"),  # the library's own
]
ENGINE = ("--engine", "transformers", "--device", "cpu", "--dtype", "float32")
LOAD_S = 180.0  # torch alone takes half a minute on a machine with much else to do
ASKED = REQUESTS[:3]  # pictures


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model that sees, with other random weights: in the library's own names for them."""
    torch, library = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("senses") / NAME
    make(folder)
    torch.manual_seed(0)
    made: Any = library.AutoModelForImageTextToText.from_config(library.AutoConfig.from_pretrained(str(folder))).float()
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.3 + (weight.mean() > 0.5))
    made.save_pretrained(folder)
    return folder


def test_every_topology_says_the_same(tmp_path: Path, model: Path) -> None:
    told: dict[str, list[str]] = {}
    named = ("--model", model, "--name-as", NAME)
    for topology, roles in {"agg": ("worker",), "epd": ("encoder", "prefill", "decode")}.items():
        (tmp_path / topology).mkdir()
        with place(tmp_path / topology, model) as there:
            for child in [there.there.start("worker", *named, "--role", role, *ENGINE) for role in roles]:
                child.line("is ready", LOAD_S)
            there.seen = len(roles) - ("prefill" in roles)  # whom only routers send to
            if "prefill" in roles:
                there.router("--disagg-tokens", 0)
            there.front()
            told[topology] = [there.says(*parts, **more) for parts, more in ASKED]
            fetched = there.metric("wiremesh_media_parts_total{", 'result="fetched"')
            assert fetched if "encoder" in roles else not fetched
    assert len(set(told["agg"])) == len(ASKED), "each is something else to the model"
    assert told["epd"] == told["agg"]


def test_json_goes_on_when_its_worker_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    from tests.real.test_guided import DEMO, streams  # it is skipped as a whole without that

    async def main() -> None:
        await served(front, 2, DEMO)
        calm = await streams(front, "calm", node_of(workers[0]))
        found = await streams(front, "killed", node_of(workers[1]), lambda: workers[1].signal(signal.SIGKILL))
        for number, (one, same) in enumerate(zip(found, calm, strict=True)):
            assert one.texts == same.texts
            assert len(front.line(f"killed-{number}")["nodes"]) == 2, "it was in the middle"

    with mesh(tmp_path) as there:
        workers = [there.start("worker", "--name", name, "--model", DEMO, *ENGINE) for name in ("stays", "victim")]
        for worker in workers:
            worker.line("is ready", LOAD_S)
        front = there.frontend()
        asyncio.run(main())
