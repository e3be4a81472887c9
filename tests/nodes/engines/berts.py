"""A tiny random BERT: its directory, and what it computes, written down plainly and in double precision."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

Doubles = NDArray[np.float64]
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "cat", "kitten"),
    *("sits", "rests", "on", "mat", "rug", "rates", "rose", "again"),
]
WIDTH, INNER, HEADS, LAYERS, POSITIONS = 24, 40, 3, 2, 40
CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "vocab_size": len(WORDS),
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
MODULES = ["Transformer", "Pooling", "Normalize"]


def folder_of(path: Path, modules: list[str] | None = MODULES, mode: str = "mean_tokens", **config: Any) -> Path:
    """A directory as sentence-transformers writes it; without `modules` as transformers does."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG | config))
    write_tensors(path / "model.safetensors", weights())
    (path / "tokenizer.json").write_text(tokenizer().to_str())
    if modules is not None:
        listed = [
            {"idx": index, "name": str(index), "path": f"{index}_{name}" if index else "", "type": f"s.models.{name}"}
            for index, name in enumerate(modules)
        ]
        (path / "modules.json").write_text(json.dumps(listed))
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
    return path


def tokenizer() -> Tokenizer:
    """A word is a token; [CLS] stands before a text, [SEP] behind it."""
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(WORDS[:4])
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    made.enable_truncation(4)
    made.enable_padding(length=32)
    return made


def weights(seed: int = 5) -> dict[str, NDArray[np.float32]]:
    """Random ones; norms and biases too, so that a forgotten one shows."""
    draw = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
        names = (*(f"attention.self.{name}" for name in ("query", "key", "value")), "attention.output.dense")
        sizes = {**dict.fromkeys(names, (WIDTH, WIDTH)), "intermediate.dense": (INNER, WIDTH)}
        for name, shape in {**sizes, "output.dense": (WIDTH, INNER)}.items():
            shapes |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
    for norm in norms:
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    return {name: draw.normal(0.0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


def write_tensors(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    header, content = {}, b""
    for name, tensor in tensors.items():
        place = [len(content), len(content) + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": place}
        content += tensor.astype("<f4").tobytes()
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + content)


# --- What it computes --------------------------------------------------------------------------------------


def rows_of(tokens: list[int]) -> Doubles:
    """The rows of a text, token by token and head by head."""
    from math import erf

    known = {name: tensor.astype(np.float64) for name, tensor in weights().items()}

    def times(name: str, rows: Doubles) -> Doubles:
        found: Doubles = rows @ known[f"{name}.weight"].T + known[f"{name}.bias"]
        return found

    def norm(name: str, rows: Doubles) -> Doubles:
        spread = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-12)
        found: Doubles = spread * known[f"{name}.weight"] + known[f"{name}.bias"]
        return found

    rows: Doubles = (
        known["embeddings.word_embeddings.weight"][tokens] + known["embeddings.token_type_embeddings.weight"][0]
    )
    rows = norm("embeddings.LayerNorm", rows + known["embeddings.position_embeddings.weight"][: len(tokens)])
    for layer in range(LAYERS):
        at, size = f"encoder.layer.{layer}.", WIDTH // HEADS
        query, key, value = (times(f"{at}attention.self.{name}", rows) for name in ("query", "key", "value"))
        seen = np.zeros_like(rows)
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = np.exp(query[:, part] @ key[:, part].T / size**0.5)
            seen[:, part] = scores / scores.sum(1, keepdims=True) @ value[:, part]
        rows = norm(f"{at}attention.output.LayerNorm", rows + times(f"{at}attention.output.dense", seen))
        inner = times(f"{at}intermediate.dense", rows)
        inner = inner * 0.5 * (1 + np.vectorize(erf)(inner / 2**0.5))
        rows = norm(f"{at}output.LayerNorm", rows + times(f"{at}output.dense", inner))
    return rows


def unit(vector: Doubles) -> Doubles:
    found: Doubles = vector / np.sqrt(vector @ vector)
    return found
