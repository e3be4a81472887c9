"""Makes `golden_media/`: tiny random models that see or hear, and what `transformers` computes with them.

As `make_golden.py`, in the same environment with Pillow added:

    golden-env/bin/python tests/nodes/engines/make_golden_media.py

Each folder holds a model as `transformers` saves it, and `expected.safetensors`: what is looked at or listened to
(`input`), its embedding (`features`), a prompt with it in the middle (`tokens`), and some of that prompt's logits.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2Config,
    Qwen3Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    WhisperFeatureExtractor,
)

FOLDER = Path(__file__).parent / "golden_media"
KEPT = 4  # the logits of every so manieth position are kept
PLACEHOLDER = 69
SIDE, PATCH = 28, 7
SECONDS = 2  # of the audio tower
SAMPLES = {"short": 9_000, "whole": SECONDS * 16_000, "odd": 320 * 31}  # odd: a row that is heard, and not told
TEXT = {
    "vocab_size": 70,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
EYE = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": SIDE,
    "patch_size": PATCH,
}
EAR = {
    "d_model": 24,
    "encoder_ffn_dim": 40,
    "encoder_layers": 2,
    "encoder_attention_heads": 3,
    "num_mel_bins": 20,
    "max_source_positions": SECONDS * 50,
}


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    clip = LlavaConfig(
        vision_config=CLIPVisionConfig(**EYE), text_config=LlamaConfig(**TEXT), image_token_index=PLACEHOLDER
    )
    see(FOLDER / "llava-clip", clip, CLIPImageProcessorPil, torch.float16, 1)
    siglip = LlavaConfig(
        vision_config=SiglipVisionConfig(**EYE, hidden_act="gelu_pytorch_tanh"),
        text_config=Qwen3Config(**TEXT, head_dim=8, tie_word_embeddings=True),
        image_token_index=PLACEHOLDER,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        multimodal_projector_bias=False,
        tie_word_embeddings=True,
    )
    see(FOLDER / "llava-siglip", siglip, SiglipImageProcessorPil, torch.bfloat16, 2)
    ear, text = Qwen2AudioEncoderConfig(**EAR), Qwen2Config(**TEXT)
    audio = Qwen2AudioConfig(audio_config=ear, text_config=text, audio_token_index=PLACEHOLDER)
    hear(FOLDER / "qwen2-audio", audio)
    print(sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()), "bytes")


def randomized(model: Any, seed: int, kind: torch.dtype) -> Any:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_norm = "norm" in name and name.endswith("weight")
            weight.copy_((torch.randn(weight.shape) * 0.2 + is_norm).to(kind).float())
    return model.eval()


def see(folder: Path, config: Any, processor_type: Any, kind: torch.dtype, seed: int) -> None:
    model = randomized(LlavaForConditionalGeneration(config), seed, kind)
    size = {"height": SIDE, "width": SIDE}
    if processor_type is CLIPImageProcessorPil:
        processor = processor_type(size={"shortest_edge": SIDE}, crop_size=size)
    else:
        processor = processor_type(size=size)
    random = np.random.Generator(np.random.PCG64(seed))
    picture = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    features = torch.cat(list(model.get_image_features(pixels).pooler_output))
    tokens = prompt(len(features))
    logits = model(input_ids=tokens, pixel_values=pixels).logits[0]
    keep(folder, model, processor, kind, tokens, logits, {"input": torch.tensor(picture).float(), "features": features})


def hear(folder: Path, config: Any) -> None:
    kind = torch.float16
    model = randomized(Qwen2AudioForConditionalGeneration(config), 3, kind)
    processor = WhisperFeatureExtractor(
        feature_size=EAR["num_mel_bins"], chunk_length=SECONDS, return_attention_mask=True
    )
    random = np.random.Generator(np.random.PCG64(3))
    found: dict[str, Any] = {}
    heard: list[Any] = []
    model.model.multi_modal_projector.register_forward_hook(lambda *call: heard.append(call[2]))
    for name, samples in SAMPLES.items():
        times = np.arange(samples) / 16_000
        sound = 0.3 * np.sin(2 * np.pi * 440 * times**1.5) + 0.02 * random.standard_normal(samples)
        sound = sound.astype(np.float32)
        mel = processor(sound, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
        frames = mel["attention_mask"].sum(-1)
        rows = int(((frames - 1) // 2 + 1 - 2) // 2 + 1)
        tokens = prompt(rows)
        heard.clear()
        logits = model(
            input_ids=tokens, input_features=mel["input_features"], feature_attention_mask=mel["attention_mask"]
        ).logits[0]
        found |= {f"input_{name}": torch.tensor(sound), f"features_{name}": heard[0][0, :rows]}
        if name == "short":
            found["mel"] = mel["input_features"][0]
            kept = tokens, logits
    keep(folder, model, processor, kind, *kept, found)


def prompt(rows: int) -> torch.Tensor:
    return torch.tensor([[5, 6, 7, *[PLACEHOLDER] * rows, 8, 9, 10, 11]])


def keep(
    folder: Path, model: Any, processor: Any, kind: torch.dtype, tokens: Any, logits: Any, more: dict[str, Any]
) -> None:
    model.to(kind).save_pretrained(folder)
    processor.save_pretrained(folder)
    found = {"tokens": tokens[0].float(), "logits": logits[::KEPT], **more}
    save_file({name: tensor.detach().contiguous() for name, tensor in found.items()}, folder / "expected.safetensors")


if __name__ == "__main__":
    main()
