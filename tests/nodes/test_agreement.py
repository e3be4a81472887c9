"""In what workers of one model agree: what their tokens mean, and not the bytes of their files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nodes import loading
from nodes.agreement import ENDS, MEDIA, TEMPLATE, TOKENIZER, differences, digest_of, marks_of
from nodes.card import ModelCard, Objection
from nodes.engine_options import EngineOptions
from nodes.objections import FRONTENDS_MAX, Objections
from tests.nodes.test_loading import model_folder


def card_of(path: Path) -> ModelCard:
    return loading.load(EngineOptions(str(path), engine="sim", name_as="m")).card


def rewritten(path: Path, name: str, change: Any = lambda found: None, indent: int | None = 2) -> None:
    """A file as another library, or another author, would write it."""
    found = json.loads((path / name).read_text())
    change(found)
    (path / name).write_text(json.dumps(found, indent=indent))


def older(found: dict[str, Any]) -> None:
    """As libraries wrote it some years ago."""
    found["model"]["merges"] = [" ".join(pair) for pair in found["model"].get("merges", ())]
    found["model"].pop("ignore_merges", None)
    found["truncation"] = {"max_length": 7, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with the same files."""
    one, other = model_folder(tmp_path / "one"), tmp_path / "other"
    shutil.copytree(one, other)
    return one, other


def test_the_same_tokenizer_may_be_written_in_other_words(folders: tuple[Path, Path]) -> None:
    one, other = folders
    rewritten(other, "tokenizer.json", older)
    rewritten(other, "config.json", lambda found: found.update(max_position_embeddings=64, dtype="float16"))
    rewritten(other, "tokenizer_config.json", lambda found: found.update(padding_side="left"))
    cards = card_of(one), card_of(other)
    assert cards[0].digest == cards[1].digest and cards[0].marks == cards[1].marks
    assert cards[0].files_digest != cards[1].files_digest and cards[0].build != cards[1].build


CHANGES = {
    TOKENIZER: ("tokenizer.json", lambda found: found["model"]["vocab"].update(extra=len(found["model"]["vocab"]) + 3)),
    TEMPLATE: ("tokenizer_config.json", lambda found: found.update(chat_template="other")),
    ENDS: ("generation_config.json", lambda found: found.update(eos_token_id=[2])),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_tokens_mean_must_be_the_same(folders: tuple[Path, Path], what: str) -> None:
    one, other = folders
    name, change = CHANGES[what]
    rewritten(other, name, change)
    first, second = card_of(one), card_of(other)
    assert first.digest != second.digest
    assert [key for key in first.marks if first.marks[key] != second.marks[key]] == [what]


def test_other_weights_are_another_build_of_the_same_model(folders: tuple[Path, Path]) -> None:
    """Requests may run on both; caches are not handed over between them."""
    one, other = folders
    (one / "model.safetensors").write_bytes(b"weights")
    (other / "model.safetensors").write_bytes(b"WEIGHTS")
    first, second = card_of(one), card_of(other)
    assert first.digest == second.digest and first.build != second.build
    (other / "model.safetensors").write_bytes(b"weights")
    assert card_of(other).build == first.build
    (other / "model.gguf").write_bytes(b"more")
    assert card_of(other).build != first.build, "weights have many endings"


def test_pictures_count_where_a_model_takes_them() -> None:
    tokenizer = b'{"model": {"vocab": {}}}'
    blind = marks_of(tokenizer, "", {}, (1, 2))
    seeing = marks_of(tokenizer, "", {}, (2, 1), {"image": {"token": 5}})
    assert differences(blind, seeing) == "other pictures and sounds"
    assert MEDIA not in blind and digest_of(blind) != digest_of(seeing)


def test_differences_are_words() -> None:
    marks = marks_of(b"{}", "t", {}, (1,))
    assert differences(marks, marks) == "other files"
    others = dict.fromkeys(marks, "x")
    assert differences(marks, others) == ("another tokenizer, another chat template and other end-of-sequence tokens")


def test_a_worker_says_once_why_it_gets_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    objections = Objections()
    for _ in range(3):
        objections.hear(Objection("front", "other tokens"))
    assert caplog.messages == ["the frontend front gives this worker no requests: other tokens"]
    objections.hear(Objection("front"))
    objections.hear(Objection("front"))
    assert len(caplog.messages) == 2 and not objections.texts
    for number in range(2 * FRONTENDS_MAX):
        objections.hear(Objection(str(number), "why"))
    assert len(objections.texts) == FRONTENDS_MAX
