"""Pure. What `config.json` says about a model, in the words that all families share.

Llama, Mistral, Qwen2 and Qwen3 are one architecture: they differ in biases, in norms of queries and keys, in which
layers see a window only, and in how rotary positions are scaled. Whatever else a file asks for is refused by name.
A model that sees or hears is one of them inside: its shape is in `text_config`, and `senses.py` reads the rest.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
WRAPPERS = {"llava": "llama", "qwen2_audio": "qwen2"}  # and which family is meant if `text_config` does not say
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


# What a `text_config` leaves out where it is the default of its family in `transformers`.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 2048, "vocab_size": 32000},
    "mistral": {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 32000},
    "qwen2": {"hidden_size": 4096, "intermediate_size": 22016, "max_position_embeddings": 32768, "vocab_size": 151936},
}
DEPTH = {"num_hidden_layers": 32, "num_attention_heads": 32}  # likewise, of all three
PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.vision_tower.", "vision_tower."),
    ("model.audio_tower.", "audio_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("vision_tower.vision_model.", "vision_tower."),
)  # of tensors: what versions of `transformers` write, and what we say


class Unsupported(Exception):
    """This model cannot be served by this engine; the text says why."""


class Rope(Struct, frozen=True):
    """Rotary positions; `scaling` has the numbers of its type."""

    kind: str
    theta: float
    scaling: dict[str, Any]


class Config(Struct, frozen=True):
    """The shape of a model."""

    family: str
    vocabulary: int
    width: int
    inner: int  # of the feed-forward part
    layers: int
    heads: int
    key_heads: int
    head_width: int
    context: int
    epsilon: float
    tied: bool  # whether the head is the embedding
    rope: Rope
    windows: tuple[int, ...]  # per layer: how many positions it sees, itself included; 0: all
    eos_tokens: tuple[int, ...]


def config_of(raw: Mapping[str, Any]) -> Config:
    """Read `config.json`; raises Unsupported."""
    raw = text_of(raw)
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise Unsupported(f"model_type {family!r} is none of {', '.join((*FAMILIES, *WRAPPERS))}")
    if raw.get("quantization_config"):
        raise Unsupported("quantized weights are not supported")
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        raise Unsupported(f"hidden_act {raw['hidden_act']!r} is not supported: only silu")
    heads, width, layers = (
        number(raw, "num_attention_heads"),
        number(raw, "hidden_size"),
        number(raw, "num_hidden_layers"),
    )
    key_heads = raw.get("num_key_value_heads") or heads
    head_width = raw.get("head_dim") or (128 if family == "qwen3" else width // heads)
    if heads % key_heads or head_width % 2:
        raise Unsupported(f"{heads} heads of {head_width} with {key_heads} key-value heads cannot be")
    return Config(
        family=family,
        vocabulary=number(raw, "vocab_size"),
        width=width,
        inner=number(raw, "intermediate_size"),
        layers=layers,
        heads=heads,
        key_heads=key_heads,
        head_width=head_width,
        context=number(raw, "max_position_embeddings"),
        epsilon=float(raw.get("rms_norm_eps", 1e-6)),
        tied=bool(raw.get("tie_word_embeddings", False)),
        rope=rope_of(raw),
        windows=windows_of(raw, layers),
        eos_tokens=tokens_of(raw.get("eos_token_id")),
    )


def text_of(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of `config.json` that is about text: all of it, or `text_config` with what that leaves out."""
    usual = WRAPPERS.get(str(raw.get("model_type")))
    if usual is None:
        return raw
    given = raw.get("text_config") or {}
    if not isinstance(given, Mapping):
        raise Unsupported("config.json says a text_config that is no object")
    family = given.get("model_type", usual)
    known = DEPTH | DEFAULTS[family] if family in DEFAULTS else {}
    tied = raw.get("tie_word_embeddings") or given.get("tie_word_embeddings")
    own = {name: raw[name] for name in ("eos_token_id", "quantization_config") if raw.get(name)}
    return {**known, **given, **own, "model_type": family, "tie_word_embeddings": bool(tied)}


def canonical(name: str) -> str:
    """The name of a tensor in words that do not depend on the version that wrote it."""
    for theirs, ours in PREFIXES:
        if name.startswith(theirs):
            name = ours + name[len(theirs) :]
    return name


def number(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    if not isinstance(value, int) or value <= 0:
        raise Unsupported(f"config.json says {name} = {value!r}")
    return value


def rope_of(raw: Mapping[str, Any]) -> Rope:
    """From `rope_parameters` (new) or `rope_theta` and `rope_scaling` (old)."""
    given = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in ROPE_TYPES:
        raise Unsupported(f"rope type {kind!r} is none of {', '.join(ROPE_TYPES)}")
    if given.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0:
        raise Unsupported("partial rotary embeddings are not supported")
    given.setdefault("original_max_position_embeddings", raw.get("max_position_embeddings"))
    theta = given.get("rope_theta") or raw.get("rope_theta") or 10000.0
    return Rope(kind, float(theta), given)


def windows_of(raw: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """Mistral: all layers alike. Qwen: by `layer_types`, else from `max_window_layers` on. Llama: none."""
    if raw["model_type"] == "mistral":
        return (raw.get("sliding_window", 4096) or 0,) * layers
    window = raw.get("sliding_window") or 0
    if raw["model_type"] == "llama" or not raw.get("use_sliding_window"):
        return (0,) * layers
    kinds = raw.get("layer_types")
    if kinds:
        return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    return tuple(window if layer >= raw.get("max_window_layers", 28) else 0 for layer in range(layers))


def tokens_of(value: object) -> tuple[int, ...]:
    """`eos_token_id` is null, one number or a list of them."""
    values = value if isinstance(value, list) else [value]
    return tuple(token for token in values if isinstance(token, int))
