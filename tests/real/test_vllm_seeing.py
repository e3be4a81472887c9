"""Pictures for vLLM on the mesh: what it says of them is what the transformers engine says, whoever has looked at them.

Runs where vLLM is installed, and a torchvision that can be imported beside it: ./launch/test.sh --engine vllm
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if any(find_spec(name) is None for name in ("vllm", "torchvision", "transformers")):
    pytest.skip("vLLM is not installed here, or torchvision", allow_module_level=True)

from tests.nodes.engines.seers import make
from tests.real.processes import ROOT, Child
from tests.real.serving import mesh
from tests.real.test_media import NAME, TOKENS, Place, image
from tests.real.test_vllm import until

pytestmark = pytest.mark.filterwarnings("ignore")  # of the library that makes the model
START_S = 600.0  # two of them, on a machine of two cores that does other things beside
CPU = ("--device", "cpu", "--dtype", "float32")
FLAGS = "--dtype float32 --enforce-eager --max-model-len 1024 --max-num-seqs 4 --block-size 32"
CACHE = ("--kv-cache-memory-bytes", 64 << 20)
SHOWN: tuple[tuple[Any, ...], ...] = ((image(1),), (image(2),), (image(1), image(2)))
ENCODED, FETCHED = 'result="encoded"', 'result="fetched"'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seer") / NAME
    make("qwen2_vl", folder)
    return folder


class Seers(Place):
    """A mesh of vLLM's workers, and of others."""

    def vllm(self, role: str, *words: object) -> Child:
        return self.worker(role, "--engine", "vllm", *words, "--", *FLAGS.split(), *CACHE)

    def worker(self, role: str, *words: object) -> Child:
        where = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        told = {"PYTHONPATH": os.pathsep.join(where), "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
        given = ("--join", self.there.join, "--model", self.model, "--name-as", NAME, "--role", role, *words)
        child = self.there._stack.enter_context(Child("-m", "launch.cli", "worker", *given, environment=told))
        self._starting.append(child)
        self.seen += role != "prefill"
        return child

    def know(self) -> None:
        """They start beside each other."""
        for child in self._starting:
            child.line("is ready", START_S)
        super().know()

    def encoder(self) -> Child:
        return self.worker("encoder", "--engine", "transformers", *CPU)

    def parts(self, result: str) -> float:
        return self.metric("wiremesh_media_parts_total{", result)


@contextmanager
def seers(folder: Path, model: Path) -> Iterator[Seers]:
    folder.mkdir()
    with mesh(folder) as there:
        yield Seers(there, model)


@pytest.fixture(scope="module")
def said(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """By the transformers engine, with its own eyes."""
    with seers(tmp_path_factory.mktemp("reference") / "mesh", model) as there:
        there.worker("worker", "--engine", "transformers", *CPU)
        there.front()
        texts = [there.says(*parts) for parts in SHOWN]
    assert len(set(texts)) == len(SHOWN), "each is something else to the model"
    return texts


def test_its_own_tower_and_an_encoder_show_it_the_same(tmp_path: Path, model: Path, said: list[str]) -> None:
    """And what was looked at once is not looked at again."""
    with seers(tmp_path / "mesh", model) as there:
        there.vllm("worker")
        there.front()
        assert [there.says(*parts) for parts in SHOWN] == said
        assert there.parts(ENCODED) == 2, "the third shows nothing new"
        encoder = there.encoder()
        there.know()
        before = there.parts(ENCODED)
        new = there.says(image(3))
        assert there.parts(ENCODED) == before + 1 and there.parts(FETCHED) == 1, "the encoder's rows were used"
        assert there.says(image(3)) == new and there.parts(ENCODED) == before + 1
        encoder.kill()
        assert there.says(image(4)) != new, "the worker has eyes of its own"
        status, found = there.post({"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3})
        assert status == 200, found


@pytest.mark.skipif(find_spec("nixl") is None, reason="NIXL is not installed here")
def test_encoder_prefill_and_decode_apart_say_the_same(tmp_path: Path, model: Path, said: list[str]) -> None:
    with seers(tmp_path / "mesh", model) as there:
        encoder = there.encoder()
        for role in ("prefill", "decode"):
            there.vllm(role)
        there.router("--disagg-tokens", 0)
        there.front()
        until(lambda: there.metric("wiremesh_node_peers{", 'role="router",state="up"') >= 4)  # the prefill among them
        assert [there.says(*parts) for parts in SHOWN] == said
        pulled = 'event="pulled"'
        assert there.metric("wiremesh_transfer_handovers_total{", pulled) >= len(SHOWN)
        assert there.says(*SHOWN[0], max_tokens=TOKENS) == said[0]
        assert there.parts(ENCODED) == 2, "who goes on has what the prefill had, and does not look again"
        assert there.parts(FETCHED) == 4, "each by the prefill, and by who goes on"
        encoder.kill()
        until(lambda: there.parts(ENCODED) == 0)
        there.says(image(3))
        assert there.parts(ENCODED) == 1, "by the prefill's own eyes, once"
        assert there.parts(FETCHED) == 5
