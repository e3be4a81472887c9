"""Pictures for SGLang on the mesh: what it says of them is what the transformers engine says, whoever has looked.

Runs where SGLang is installed: ./launch/test.sh --engine sglang
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("sglang") is None or find_spec("sgl_kernel") is None:
    pytest.skip("SGLang is not installed here", allow_module_level=True)

from tests.engines.of_sglang import PLACE, SETTINGS, WORDS
from tests.nodes.engines.seers import make
from tests.real.processes import ROOT, Child
from tests.real.serving import mesh
from tests.real.test_media import NAME, Place, image
from tests.real.test_sglang import HANDING

pytestmark = pytest.mark.filterwarnings("ignore")  # of the library that makes the model
START_S = 300.0  # two of them, on a machine of two cores that does other things beside
CPU = ("--device", "cpu", "--dtype", "float32")
CACHE = ("--max-total-tokens", 4096)
SHOWN: tuple[tuple[Any, ...], ...] = ((image(1),), (image(2),), (image(1), image(2)))
ENCODED, FETCHED = 'result="encoded"', 'result="fetched"'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("seer") / NAME
    make("qwen2_vl", folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["in_chans"] = 3  # as those say who were made with older versions of the library
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Seers(Place):
    """A mesh of SGLang's workers, and of others."""

    def sglang(self, role: str, *flags: object) -> Child:
        return self.begin(role, "--engine", "sglang", "--", *WORDS.split(), *CACHE, *flags)

    def begin(self, role: str, *words: object) -> Child:
        """It is not waited for: two may start at once."""
        path = os.pathsep.join([str(PLACE), str(ROOT)])
        told = {**SETTINGS, "SGLANG_EXTERNAL_MODEL_PACKAGE": "few_seers", "PYTHONPATH": path}
        given = ("--join", self.there.join, "--model", self.model, "--name-as", NAME, "--role", role, *words)
        child = self.there._stack.enter_context(Child("-m", "launch.cli", "worker", *given, environment=told))
        self.seen += role != "prefill"
        return child

    def transformers(self, role: str) -> Child:
        return self.begin(role, "--engine", "transformers", *CPU)

    def parts(self, result: str) -> float:
        return self.metric("wiremesh_media_parts_total{", result)


@contextmanager
def seers(folder: Path, model: Path) -> Iterator[Seers]:
    folder.mkdir()
    with mesh(folder) as there:
        yield Seers(there, model)


def all_ready(*children: Child) -> None:
    for child in children:
        child.line("is ready", START_S)


@pytest.fixture(scope="module")
def said(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """By the transformers engine, with its own eyes."""
    with seers(tmp_path_factory.mktemp("reference") / "mesh", model) as there:
        all_ready(there.transformers("worker"))
        there.front()
        texts = [there.says(*parts) for parts in SHOWN]
    assert len(set(texts)) == len(SHOWN), "each is something else to the model"
    return texts


def test_the_workers_eyes_and_an_encoders_show_it_the_same(tmp_path: Path, model: Path, said: list[str]) -> None:
    """And what was looked at once is not looked at again."""
    with seers(tmp_path / "mesh", model) as there:
        all_ready(there.sglang("worker"))
        there.front()
        assert [there.says(*parts) for parts in SHOWN] == said
        assert there.parts(ENCODED) == 2, "the third shows nothing new"
        encoder = there.transformers("encoder")
        all_ready(encoder)
        there.know()
        before = there.parts(ENCODED)
        new = there.says(image(3))
        assert there.parts(ENCODED) == before + 1 and there.parts(FETCHED) == 1, "the encoder's rows were used"
        assert there.says(image(3)) == new and there.parts(ENCODED) == before + 1
        encoder.kill()
        assert there.says(image(4)) != new, "the worker has eyes of its own"


@pytest.mark.skipif(find_spec("nixl") is None, reason="NIXL is not installed here")
def test_encoder_prefill_and_decode_apart_say_the_same(tmp_path: Path, model: Path, said: list[str]) -> None:
    with seers(tmp_path / "mesh", model) as there:
        apart = [there.sglang(role, *HANDING.split()) for role in ("prefill", "decode")]
        all_ready(there.transformers("encoder"), *apart)
        there.router("--enforce-disagg")
        there.front()
        assert [there.says(*parts) for parts in SHOWN] == said
        assert there.metric("wiremesh_transfer_handovers_total{", 'event="pulled"') >= len(SHOWN)
        assert there.says(*SHOWN[0]) == said[0]
        assert there.parts(ENCODED) == 2, "nobody looks again"
