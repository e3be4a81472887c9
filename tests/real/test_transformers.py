"""The transformers engine in real processes: a picture through an encoder, a prefill and a decode worker, and through
one worker alone, says the same. Needs torch: see tests/nodes/engines/test_transformers.py."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from launch.demo_model.senses import make
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
