"""From a directory to an engine that is ready; and what is wrong with a directory, in a sentence."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nodes import folder as folders
from nodes import loading
from nodes.contract.engine import Job
from nodes.engine_options import EngineOptions
from nodes.engines.sim import continuation
from nodes.folder import ModelRefused
from nodes.text.tokenizer import ModelFiles, Tokenizer, digest
from tests.nodes.engines.models import GOLDEN, greedy, run
from tests.nodes.text.tiny import CONFIG, byte_fallback, byte_level

ROOT = Path(__file__).resolve().parents[2]


def model_folder(path: Path, golden: str = "") -> Path:
    """A model's directory: the tiny tokenizer, and the weights of a golden model if one is named."""
    path.mkdir()
    if golden:
        for file in (GOLDEN / golden).iterdir():
            shutil.copy(file, path)
    else:
        (path / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    (path / "tokenizer.json").write_text(byte_level()._library.to_str())
    (path / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    return path


def test_a_simulated_engine_says_tokens_that_are_text(tmp_path: Path) -> None:
    loaded = loading.load(EngineOptions(str(model_folder(tmp_path / "tiny")), engine="sim", speedup=0.0))
    assert loaded.tokens is not None
    first, last = loaded.tokens
    tokenizer = byte_level()
    assert all(tokenizer.decode([token]) for token in range(first, last + 1)) and last - first > 50
    assert not {0, 1, 2} & set(range(first, last + 1))
    card = loaded.card
    assert (card.model, card.engine.engine, card.engine.context, card.engine.slots) == ("tiny", "sim", 2048, 256)
    assert (card.engine.vocabulary, card.engine.eos_tokens) == (tokenizer.vocabulary, (1, 2))
    loaded.engine.submit(Job("a", [5, 6], max_tokens=9))
    assert run(loaded.engine)["a"].tokens == continuation([5, 6], 9, loaded.tokens)


def test_the_files_are_named_by_their_content(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "tiny")
    loaded = loading.load(EngineOptions(str(path), engine="sim"))
    assert loaded.card.files_digest == digest(ModelFiles(**loaded.contents))
    assert loaded.card.files == {name: len(content) for name, content in loaded.contents.items() if content}
    assert "chat_template" not in loaded.card.files
    (path / "chat_template.jinja").write_text("{{ messages }}")
    assert loading.load(EngineOptions(str(path), engine="sim")).card.digest != loaded.card.digest


def test_a_card_says_that_a_worker_must_be_fed(tmp_path: Path) -> None:
    told = EngineOptions(str(model_folder(tmp_path / "tiny")), engine="sim", role="decode")
    assert not loading.load(told).card.engine.fed_only
    assert loading.load(replace(told, enforce_disagg=True)).card.engine.fed_only


def test_the_numpy_engine_computes_the_model(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "golden", "llama")
    loaded = loading.load(EngineOptions(str(path), name_as="org/mine", slots=3, exact=True, block_tokens=4))
    assert (loaded.card.model, loaded.card.engine.model, loaded.card.engine.slots) == ("org/mine", "golden", 3)
    assert loaded.tokens is None
    loaded.engine.submit(greedy("a", [5, 6, 7]))
    assert len(run(loaded.engine)["a"].tokens) == 8
    loaded.engine.stop()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "nowhere"}, "--model 'nowhere' is not there: it must be 'demo' or a model's directory"),
        ({"model": __file__}, "is no directory"),
        ({"name_as": "a b"}, "'a b' is no model name"),
        ({"engine": "numpy"}, "the numpy engine cannot serve"),
    ],
)
def test_a_model_that_cannot_be_served(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    path = model_folder(tmp_path / "tiny")
    with pytest.raises(ModelRefused) as caught:
        loading.load(EngineOptions(**{"model": str(path), "engine": "sim", **options}))
    assert words in str(caught.value)


def test_a_directory_without_a_good_tokenizer(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "tiny")
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelRefused, match=r"tokenizer\.json cannot be read"):
        loading.load(EngineOptions(str(path), engine="sim"))
    (path / "tokenizer.json").unlink()
    with pytest.raises(ModelRefused, match=r"has no tokenizer\.json"):
        loading.load(EngineOptions(str(path), engine="sim"))


def test_a_file_that_is_too_large_to_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "FILE_BYTES_MAX", 100)
    with pytest.raises(ModelRefused, match="100 are the most"):
        folders.contents_of(model_folder(tmp_path / "tiny"))


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_fallback()], ids=["byte_level", "byte_fallback"])
def test_what_is_said_is_the_longest_run_of_text(tokenizer: Tokenizer) -> None:
    first, last = loading.spoken(tokenizer)
    texts = [tokenizer.decode([token]) for token in range(tokenizer.vocabulary)]
    plain = [bool(text) and "�" not in text for text in texts]
    assert all(plain[first : last + 1])
    assert first == 0 or not plain[first - 1]
    assert last + 1 == tokenizer.vocabulary or not plain[last + 1]


def test_a_simulated_engine_needs_no_numpy() -> None:
    """It is most of what a worker would import, and most of its memory."""
    program = "import sys, nodes.worker, nodes.loading, nodes.faults; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
