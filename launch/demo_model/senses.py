"""Shell. Makes a tiny model that takes pictures, clips and sounds, and says nothing of sense: its weights are random.

    python -m launch.demo_model.senses DIR

It is for trying and testing what surrounds a model: encoders, their topologies, content parts. What it says depends on
every pixel and every sample, and is the same in every process, so a lost or mixed-up embedding shows at once. Its
tokenizer is the demo model's with three placeholders more; its towers are SigLIP's and Whisper's in small, as LLaVA
and Qwen2-Audio join them to a language model. Its files have 0.8 MB.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]
DEMO = Path(__file__).resolve().parent.parent.parent / "nodes" / "models" / "demo"
SEED = 1
SPECIALS = 4  # of the demo's tokenizer, at its beginning
PLACEHOLDERS = ("<|image|>", "<|video|>", "<|audio|>")
CONTEXT = 1024
WIDTH, INNER, LAYERS, HEADS, KEY_HEADS, HEAD = 64, 96, 2, 4, 2, 16
FRAMES = 4
LOUD = 3.0  # what is to be told apart: with usual weights attention sees a mean, and all pictures look alike
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set role = {'system': 'system', 'developer': 'system', 'assistant': 'assistant'}.get(message['role'], 'user')"
    " -%}"
    "{{- '<|' + role + '|>' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] | trim -}}"
    "{%- elif message['content'] -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{{- part['text'] | trim -}}{%- else -%}{{- '<|' + part['type'] + '|>' -}}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


class Tower(Struct, frozen=True):
    """The shape of an encoder."""

    width: int
    inner: int
    heads: int
    layers: int


class Shape(Struct, frozen=True):
    """What is seen and heard with."""

    eyes: Tower
    side: int  # pixels
    patch: int
    ears: Tower
    bins: int
    positions: int  # 50 per second


TINY = Shape(Tower(48, 96, 3, 2), 32, 8, Tower(48, 96, 3, 2), 40, 500)
SMALL = Shape(Tower(384, 1536, 6, 12), 224, 16, Tower(384, 1536, 6, 4), 80, 1500)  # ViT-S, and Whisper tiny's encoder


def main() -> int:
    if len(sys.argv) != 2:
        print("Usage: python -m launch.demo_model.senses DIR", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    make(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder} has {size / 1e6:.1f} MB. Serve it: wiremesh up --model {folder}")
    return 0


def make(folder: Path, shape: Shape = TINY, seed: int = SEED) -> None:
    """Write a model's directory. Equal shapes and seeds give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text())
    known = len(tokenizer["model"]["vocab"])
    plain = tokenizer["added_tokens"][-1]
    names = enumerate(PLACEHOLDERS, known)
    tokenizer["added_tokens"] += [{**plain, "id": token, "content": name} for token, name in names]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    texts = json.loads((DEMO / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", {**texts, "model_max_length": CONTEXT, "chat_template": TEMPLATE})
    write_json(folder / "generation_config.json", {"eos_token_id": 0})
    write_json(folder / "config.json", configuration(known, shape))
    write_json(folder / "processor_config.json", preparation(shape))
    write_weights(folder / "model.safetensors", random_weights(known, shape, seed))


def configuration(known: int, shape: Shape) -> dict[str, Any]:
    """`config.json`. The placeholders come after the tokens that are known."""
    image, video, audio = range(known, known + len(PLACEHOLDERS))
    eyes, ears = shape.eyes, shape.ears
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": image,
        "video_token_index": video,
        "audio_token_index": audio,
        "eos_token_id": 0,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "qwen3",
            "vocab_size": known + len(PLACEHOLDERS),
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_HEADS,
            "head_dim": HEAD,
            "max_position_embeddings": CONTEXT,
            "rope_theta": 10000.0,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": eyes.width,
            "intermediate_size": eyes.inner,
            "num_hidden_layers": eyes.layers,
            "num_attention_heads": eyes.heads,
            "image_size": shape.side,
            "patch_size": shape.patch,
        },
        "audio_config": {
            "model_type": "qwen2_audio_encoder",
            "d_model": ears.width,
            "encoder_ffn_dim": ears.inner,
            "encoder_layers": ears.layers,
            "encoder_attention_heads": ears.heads,
            "num_mel_bins": shape.bins,
            "max_source_positions": shape.positions,
        },
    }


def preparation(shape: Shape) -> dict[str, Any]:
    """`processor_config.json`."""
    return {
        "image_processor": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "num_frames": FRAMES},
        "feature_extractor": {
            "feature_size": shape.bins,
            "sampling_rate": 16_000,
            "chunk_length": shape.positions // 50,
        },
    }


class Drawn:
    """Random weights, such that what was said last, what was seen and what was heard all tell."""

    def __init__(self, seed: int) -> None:
        self.found: Weights = {}
        self._random = np.random.Generator(np.random.PCG64(seed))

    def matrix(self, name: str, outputs: int, *inputs: int, bias: bool = True, gain: float = 1.0) -> None:
        scale = np.float32(gain / np.prod(inputs) ** 0.5)
        self.found[name + ".weight"] = self._random.standard_normal((outputs, *inputs), np.float32) * scale
        if bias:
            self.found[name + ".bias"] = self._random.standard_normal(outputs, np.float32) * np.float32(0.1)

    def norm(self, name: str, width: int, bias: bool = True, gain: float = 1.0) -> None:
        self.found[name + ".weight"] = np.full(width, gain, np.float32)
        if bias:
            self.found[name + ".bias"] = np.zeros(width, np.float32)

    def encoder(self, at: str, tower: Tower, norms: tuple[str, str], feed: str) -> None:
        for index in range(tower.layers):
            here = f"{at}{index}."
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                gain = LOUD if name == "q_proj" else 1.0
                self.matrix(f"{here}self_attn.{name}", tower.width, tower.width, gain=gain)
            self.matrix(f"{here}{feed}fc1", tower.inner, tower.width)
            self.matrix(f"{here}{feed}fc2", tower.width, tower.inner)
            for name in norms:
                self.norm(here + name, tower.width)


def random_weights(known: int, shape: Shape, seed: int) -> Weights:
    drawn = Drawn(seed)
    draw_text(drawn, known)
    width = shape.eyes.width
    drawn.encoder("vision_tower.encoder.layers.", shape.eyes, ("layer_norm1", "layer_norm2"), "mlp.")
    drawn.matrix("vision_tower.embeddings.patch_embedding", width, 3, shape.patch, shape.patch)
    drawn.matrix("vision_tower.embeddings.position_embedding", (shape.side // shape.patch) ** 2, width, bias=False)
    drawn.matrix("multi_modal_projector.linear_1", WIDTH, width)
    drawn.matrix("multi_modal_projector.linear_2", WIDTH, WIDTH, gain=LOUD)
    width = shape.ears.width
    drawn.encoder("audio_tower.layers.", shape.ears, ("self_attn_layer_norm", "final_layer_norm"), "")
    drawn.matrix("audio_tower.conv1", width, shape.bins, 3)
    drawn.matrix("audio_tower.conv2", width, width, 3)
    drawn.matrix("audio_tower.embed_positions", shape.positions, width, bias=False)
    drawn.norm("audio_tower.layer_norm", width)
    drawn.matrix("multi_modal_projector.linear", WIDTH, width, gain=LOUD)
    return drawn.found


def draw_text(drawn: Drawn, known: int) -> None:
    """The language model. It neither ends nor says what stands for something else."""
    vocabulary = known + len(PLACEHOLDERS)
    drawn.matrix("model.embed_tokens", vocabulary, WIDTH, bias=False, gain=WIDTH**0.5)
    drawn.matrix("lm_head", vocabulary, WIDTH, bias=False)
    drawn.found["lm_head.weight"][:SPECIALS] = 0
    drawn.found["lm_head.weight"][known:] = 0
    drawn.norm("model.norm", WIDTH, bias=False)
    for index in range(LAYERS):
        at = f"model.layers.{index}."
        for name, rows in (("q", HEADS * HEAD), ("k", KEY_HEADS * HEAD), ("v", KEY_HEADS * HEAD)):
            drawn.matrix(f"{at}self_attn.{name}_proj", rows, WIDTH, bias=False)
        drawn.matrix(at + "self_attn.o_proj", WIDTH, HEADS * HEAD, bias=False, gain=LOUD)
        for name in ("gate", "up"):
            drawn.matrix(f"{at}mlp.{name}_proj", INNER, WIDTH, bias=False)
        drawn.matrix(at + "mlp.down_proj", WIDTH, INNER, bias=False, gain=LOUD)
        for name in ("input_layernorm", "post_attention_layernorm"):
            drawn.norm(at + name, WIDTH, bias=False)
        drawn.norm(at + "self_attn.q_norm", HEAD, bias=False, gain=LOUD)
        drawn.norm(at + "self_attn.k_norm", HEAD, bias=False)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_weights(path: Path, weights: Weights) -> None:
    """As safetensors, in float16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, weight in weights.items():
        header[name] = {"dtype": "F16", "shape": weight.shape, "data_offsets": [at, at + 2 * weight.size]}
        at += 2 * weight.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    halves = (weight.astype("<f2").tobytes() for weight in weights.values())
    path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *halves]))


if __name__ == "__main__":
    sys.exit(main())
