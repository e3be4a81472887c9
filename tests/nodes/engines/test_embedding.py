"""Engines that make vectors: a tiny BERT against its definition, the queue, and what a directory may say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.contract.engine import FULL, Card, Ending, Job
from nodes.embedders import open_embedder
from nodes.engine_options import EngineOptions
from nodes.engines.embedding import EmbeddingEngine
from nodes.engines.numpy.config import Unsupported
from nodes.engines.pooling import is_embedder
from nodes.folder import ModelRefused
from nodes.loading import load
from tests.nodes.engines.berts import WIDTH, WORDS, folder_of, rows_of, unit, write_tensors
from tests.nodes.test_loading import model_folder

TEXTS = [[2, 4, 6, 3], [2, 3], [2, *range(4, 15), 3], [2, 7, 8, 9, 3]]


def opened(folder: Path, **options: Any) -> tuple[EmbeddingEngine, Card]:
    engine, card, _ = open_embedder(folder, EngineOptions(str(folder), **options))
    return engine, card


def vectors(engine: EmbeddingEngine, texts: list[list[int]], dimensions: int = 0) -> list[np.ndarray]:
    for key, text in enumerate(texts):
        assert engine.submit(Job(key, text, embeds=True, dimensions=dimensions)) is None
    found: dict[Any, np.ndarray] = {}
    while not engine.idle():
        for output in engine.step().outputs:
            assert output.ending is Ending.STOP and not output.tokens
            found[output.key] = np.frombuffer(output.vector, "<f4")
        engine.check()
    return [found[key] for key in range(len(texts))]


def test_the_vectors_are_those_of_the_definition(tmp_path: Path) -> None:
    engine, card = opened(folder_of(tmp_path / "bert"))
    assert (card.embeds, card.generates, card.context, card.vocabulary) == (WIDTH, False, 40, len(WORDS))
    for text, found in zip(TEXTS, vectors(engine, TEXTS), strict=True):
        assert np.abs(found - unit(rows_of(text).mean(0))).max() < 1e-5


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls_token", lambda rows: rows[0]),
        ("lasttoken", lambda rows: rows[-1]),
        ("max_tokens", lambda rows: rows.max(0)),
        ("mean_sqrt_len_tokens", lambda rows: rows.sum(0) / len(rows) ** 0.5),
        ("weightedmean_tokens", lambda rows: np.arange(1, len(rows) + 1) @ rows / np.arange(1, len(rows) + 1).sum()),
    ],
)
def test_each_pooling_is_what_its_name_says(mode: str, expected: Any, tmp_path: Path) -> None:
    engine, _ = opened(folder_of(tmp_path / "bert", ["Transformer", "Pooling"], mode))
    for text, found in zip(TEXTS, vectors(engine, TEXTS), strict=True):
        assert np.abs(found - expected(rows_of(text))).max() < 1e-5


def test_a_matrix_may_follow_the_pooling(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "bert", ["Transformer", "Pooling", "Dense"])
    draw = np.random.default_rng(1)
    weight, bias = draw.normal(size=(6, WIDTH)).astype(np.float32), draw.normal(size=6).astype(np.float32)
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text('{"activation_function": "torch.nn.modules.activation.Tanh"}')
    write_tensors(folder / "2_Dense" / "model.safetensors", {"linear.weight": weight, "linear.bias": bias})
    engine, card = opened(folder)
    assert card.embeds == 6
    for text, found in zip(TEXTS, vectors(engine, TEXTS), strict=True):
        assert np.abs(found - np.tanh(weight @ rows_of(text).mean(0) + bias)).max() < 1e-4


def test_exact_vectors_do_not_depend_on_their_neighbours(tmp_path: Path) -> None:
    engine, _ = opened(folder_of(tmp_path / "bert"), exact=True)
    together = vectors(engine, TEXTS)
    for text, found in zip(TEXTS, together, strict=True):
        assert vectors(engine, [text])[0].tobytes() == found.tobytes()


def test_a_step_takes_what_fits_and_at_least_one(tmp_path: Path) -> None:
    engine, _ = opened(folder_of(tmp_path / "bert"), step_tokens=8)
    for key, text in enumerate(TEXTS):
        assert engine.submit(Job(key, text, embeds=True)) is None
    steps = []
    while not engine.idle():
        steps.append([output.key for output in engine.step().outputs])
    assert steps == [[0, 1], [2], [3]]


def test_what_is_cancelled_is_not_read(tmp_path: Path) -> None:
    engine, _ = opened(folder_of(tmp_path / "bert"), slots=2)
    for key in "abc":
        assert engine.submit(Job(key, TEXTS[0], embeds=True, priority=1)) is None
    assert engine.submit(Job("first", TEXTS[0], embeds=True)) is None
    engine.cancel("a")
    engine.cancel("never heard of")
    assert engine.load().waiting == 3
    found = {output.key: output.ending for output in engine.step().outputs}
    assert found == {"a": Ending.CANCELLED, "first": Ending.STOP, "b": Ending.STOP}


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    engine, _ = opened(folder_of(tmp_path / "bert"))
    assert "generates no text" in str(engine.submit(Job("a", [4])))
    assert "a text is wanted" in str(engine.submit(Job("a", [], embeds=True)))
    assert "outside the vocabulary" in str(engine.submit(Job("a", [99], embeds=True)))
    assert "41 tokens do not fit" in str(engine.submit(Job("a", [4] * 41, embeds=True)))
    assert "no embeddings of 5" in str(engine.submit(Job("a", [4], embeds=True, dimensions=5)))
    assert engine.submit(Job("a", [4], embeds=True)) is None
    assert "already here" in str(engine.submit(Job("a", [4], embeds=True)))
    for key in range(1023):
        assert engine.submit(Job(key, [4], embeds=True)) is None
    assert engine.submit(Job("z", [4], embeds=True)) == FULL


def test_a_vector_is_cut_only_where_the_model_was_made_for_it(tmp_path: Path) -> None:
    engine, card = opened(folder_of(tmp_path / "some", matryoshka_dimensions=[8, 16]))
    assert card.shortens and card.dimensions == (8, 16)
    [found] = vectors(engine, TEXTS[:1], 8)
    assert np.abs(found - unit(rows_of(TEXTS[0]).mean(0)[:8])).max() < 1e-5
    assert "no embeddings of 9" in str(engine.submit(Job("a", [4], embeds=True, dimensions=9)))
    assert len(vectors(engine, TEXTS[:1], WIDTH)[0]) == WIDTH
    engine, card = opened(folder_of(tmp_path / "any", is_matryoshka=True))
    assert card.shortens and len(vectors(engine, TEXTS[:1], 9)[0]) == 9


def test_numbers_that_overflow_fail_their_text_alone(tmp_path: Path) -> None:
    engine, _ = opened(folder_of(tmp_path / "bert"))
    body: Any = engine._body
    body._words[5] = np.nan
    assert engine.submit(Job("bad", [5], embeds=True)) is None
    assert engine.submit(Job("good", [4], embeds=True)) is None
    found = {output.key: output.ending for output in engine.step().outputs}
    assert found == {"bad": Ending.FAILED, "good": Ending.STOP}


# --- Directories -------------------------------------------------------------------------------------------


def test_a_directory_says_what_it_is(tmp_path: Path) -> None:
    assert is_embedder(folder_of(tmp_path / "a")) and is_embedder(folder_of(tmp_path / "b", None))
    assert not is_embedder(model_folder(tmp_path / "c"))
    for number, (name, expected) in enumerate({"GPT2LMHeadModel": False, "LlamaForCausalLM": False}.items()):
        assert is_embedder(folder_of(tmp_path / str(number), None, architectures=[name])) is expected
    assert is_embedder(folder_of(tmp_path / "d", None, architectures=None))


def test_a_directory_is_loaded_and_shortened_to_what_it_was_trained_with(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "bert", None)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 17}')
    loaded = load(EngineOptions(str(folder)))
    assert (loaded.card.engine.engine, loaded.card.engine.context, loaded.card.engine.embeds) == ("numpy", 17, WIDTH)
    with pytest.raises(ModelRefused, match="makes embeddings: start it with --role worker"):
        load(EngineOptions(str(folder), role="prefill"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("modules.json", [{"type": "a.Transformer", "path": ""}, {"type": "a.LSTM", "path": ""}], "names a LSTM"),
        ("modules.json", [{"type": "a.Pooling", "path": "1_Pooling"}], "must begin with a Transformer"),
        ("modules.json", {"a": 1}, "is not what it should be"),
        ("1_Pooling/config.json", {}, "pooling of none"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "median"),
        ("config.json", {"model_type": "t5"}, "try --engine transformers"),
    ],
)
def test_what_is_not_known_is_refused_by_name(name: str, content: Any, words: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "bert")
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(Unsupported, match=words):
        opened(folder)
