"""The numpy engine beyond its arithmetic: what it is told, what it refuses, what it does when numbers overflow."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.contract.engine import Ending, Job, Sampling
from nodes.engines.numpy.config import Unsupported, config_of
from nodes.engines.numpy.engine import OVERFLOWED, NumpyEngine, Settings, banned
from nodes.engines.numpy.safetensors import Damaged, Tensors
from nodes.engines.scheduler import Running
from nodes.folder import folder_of
from tests.nodes.engines.models import GOLDEN, engine_of, greedy, run


def copied(folder: Path, name: str = "llama") -> Path:
    shutil.copytree(GOLDEN / name, folder / "model")
    return folder / "model"


def change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def test_the_card() -> None:
    card = NumpyEngine(Settings(str(GOLDEN / "llama"), context=40)).start()
    assert (card.engine, card.model, card.vocabulary, card.context, card.eos_tokens) == ("numpy", "llama", 70, 40, (1,))


def test_generation_config_knows_more_ends(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    change(folder / "generation_config.json", eos_token_id=[1, 9])
    assert NumpyEngine(Settings(str(folder))).start().eos_tokens == (1, 9)


def test_greedy_is_the_largest_logit_and_log_probabilities_say_so() -> None:
    engine = engine_of("qwen2")
    engine.submit(greedy(1, [5, 6, 7], 6))
    told = Sampling(temperature=0.0, logprobs=3)
    engine.submit(Job(2, [5, 6, 7], max_tokens=6, ignore_eos=True, sampling=told))
    found = run(engine)
    assert found[1].tokens == found[2].tokens
    assert [row.top[0][0] for row in found[2].logprobs] == found[2].tokens
    assert [row.top[0][1] for row in found[2].logprobs] == [row.chosen for row in found[2].logprobs]
    assert found[1].logprobs == []


def test_a_prefix_is_found_and_reported() -> None:
    engine = engine_of("qwen2")
    engine.submit(greedy(1, list(range(22)), 1))
    stored = [event for event in engine.step().events if event.kind == "stored"]
    assert [len(event.hashes) for event in stored] == [5]
    engine.submit(greedy(2, list(range(22)), 1))
    assert run(engine)[2].cached_tokens == 20


def test_end_of_sequence_waits_for_min_tokens() -> None:
    engine = engine_of("llama")
    always = Sampling(temperature=0.0, logit_bias={1: 100.0})
    engine.submit(Job(1, [5], max_tokens=9, sampling=always))
    engine.submit(Job(2, [5], max_tokens=9, min_tokens=3, sampling=always))
    engine.submit(Job(3, [5], max_tokens=9, min_tokens=3, generated=[7], sampling=always))
    engine.submit(Job(4, [5], max_tokens=4, ignore_eos=True, sampling=always))
    found = run(engine)
    assert found[1].tokens == [1]
    assert len(found[2].tokens) == 4 and 1 not in found[2].tokens[:3] and found[2].tokens[3] == 1
    assert len(found[3].tokens) == 3 and found[3].tokens[2] == 1
    assert found[4].tokens == [1, 1, 1, 1]
    assert [found[key].ending for key in (1, 2, 3, 4)] == [Ending.STOP, Ending.STOP, Ending.STOP, Ending.LENGTH]


def test_a_stranger_in_the_biases_is_refused() -> None:
    assert "99" in (engine_of("llama").submit(Job(1, [5], sampling=Sampling(logit_bias={99: 1.0}))) or "")


def test_overflow_fails_one_job_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of("llama")
    model = engine._model
    assert model is not None
    whole = model.logits

    def poisoned(tokens: np.ndarray, *more: Any) -> np.ndarray:
        rows = whole(tokens, *more)
        rows[len(rows) - 1] = np.nan
        return rows

    engine.submit(greedy(1, [5], 3))
    engine.step()
    engine.submit(greedy(2, [6], 3))
    monkeypatch.setattr(model, "logits", poisoned)
    found = {output.key: output for output in engine.step().outputs}
    monkeypatch.undo()
    engine.check()
    assert (found[2].ending, found[2].text, found[1].ending) == (Ending.FAILED, OVERFLOWED, None)
    assert run(engine)[1].ending is Ending.LENGTH
    assert engine.load().blocks_used == 0


@pytest.mark.parametrize("level", [1, 2])
def test_what_it_had_is_given_back_while_it_sleeps(level: int) -> None:
    cache_bytes = 128 << 20  # in two pieces: malloc keeps those of 32 MiB
    engine = NumpyEngine(Settings(str(folder_of("demo")), cache_bytes=cache_bytes))
    engine.start()
    assert engine._model is not None
    engine._model.keys[...] = engine._model.values[...] = 1.0
    held = resident_bytes()
    engine.sleep(level)
    assert held - resident_bytes() > 100 << 20, "nearly all of 128 MiB"
    assert (engine._model is None) == (level == 2)
    engine.wake()
    assert engine.submit(greedy(1, [5, 6, 7], 3)) is None and len(run(engine)[1].tokens) == 3
    engine.stop()


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_stop_twice_is_once() -> None:
    engine = engine_of("llama")
    engine.stop()
    engine.stop()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "3"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial"),
        ({"num_hidden_layers": 3}, "model.layers.2"),
        ({"intermediate_size": 23}, "shapes"),
        ({"vocab_size": 71}, "shapes"),
    ],
)
def test_a_model_that_cannot_be_served_says_why(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    folder = copied(tmp_path)
    change(folder / "config.json", **more)
    with pytest.raises((Unsupported, Damaged), match=words):
        NumpyEngine(Settings(str(folder))).start()


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no model here"):
        NumpyEngine(Settings(str(tmp_path))).start()


def test_old_names_in_the_config() -> None:
    raw = json.loads((GOLDEN / "llama" / "config.json").read_text())
    scaling = raw.pop("rope_parameters")
    theta = scaling.pop("rope_theta")
    old = {**raw, "rope_theta": theta, "rope_scaling": {"type": scaling.pop("rope_type"), **scaling}}
    new = {**raw, "rope_parameters": {"rope_type": "llama3", "rope_theta": theta, **scaling}}
    assert (config_of(old).rope.kind, config_of(old).rope.theta) == ("llama3", theta)
    assert config_of(old).rope.scaling["factor"] == config_of(new).rope.scaling["factor"]
    assert config_of({**raw, "sliding_window": 5}).windows == (0, 0)
    assert config_of({**raw, "model_type": "mistral"}).windows == (4096, 4096)
    assert config_of({**raw, "model_type": "mistral", "sliding_window": None}).windows == (0, 0)
    qwen = {**raw, "model_type": "qwen2", "sliding_window": 7, "max_window_layers": 1}
    assert config_of(qwen).windows == (0, 0)
    assert config_of({**qwen, "use_sliding_window": True}).windows == (0, 7)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty|no safetensors"),
        (b"abc", "no safetensors"),
        (b"\xff" * 8 + b"{}", "no safetensors"),
        (b"\x02" + b"\0" * 7 + b"{]", "no JSON"),
        (b"\x02" + b"\0" * 7 + b"[]", "no object"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(Damaged, match=words):
        Tensors([path])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, None),
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, "outside"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, "outside"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "outside"),
        ({"dtype": "I8", "shape": [8], "data_offsets": [0, 8]}, "I8"),
        ({"dtype": "F32", "shape": [2]}, "not described"),
        ({"dtype": "F32", "shape": "x", "data_offsets": [0, 8]}, "not described"),
    ],
)
def test_what_a_header_claims_is_checked(tmp_path: Path, entry: dict[str, Any], words: str | None) -> None:
    header = json.dumps({"x": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.array([1, 2], "<f4").tobytes())
    tensors = Tensors([path])
    if words is None:
        assert tensors["x"].tolist() == [1, 2]
    else:
        with pytest.raises(Damaged, match=words):
            tensors["x"]
    tensors.close()


def test_an_index_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    folder = copied(tmp_path, "qwen3")
    change(folder / "model.safetensors.index.json", weight_map={"x": "../model.safetensors"})
    with pytest.raises(Damaged, match="elsewhere"):
        NumpyEngine(Settings(str(folder))).start()


def test_an_end_that_is_no_token_is_not_banned() -> None:
    running = Running(Job("key", [1]), "key", (0, 0), [1], 9, frozenset({3, 10_000}), 5)
    assert banned(running, 100) == [3]
    running.tokens += [1] * 4
    assert banned(running, 100) == ()
