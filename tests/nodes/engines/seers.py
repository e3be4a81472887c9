"""Shell. Tiny random models that see, with the demo's tokenizer: as vLLM and the transformers library take them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from launch.demo_model.senses import CONTEXT, DEMO, TEMPLATE
from nodes.contract.engine import Job, Sampling
from nodes.contract.media import Media
from nodes.engines.transformers.library import library, torch
from nodes.engines.transformers.vision import Sight, taken

NAMES = ("llava", "qwen2_vl", "qwen2_5_vl")
MARKS = ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
SIDE, PATCH = 56, 14
OURS, THEIRS = "vision_tower.", "vision_tower.vision_model."  # as checkpoints of LLaVA are written to this day


def make(name: str, folder: Path) -> None:
    """A model's directory. Equal names give equal weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text())
    known = len(tokenizer["model"]["vocab"])
    plain = tokenizer["added_tokens"][-1]
    tokenizer["added_tokens"] += [{**plain, "id": known + index, "content": mark} for index, mark in enumerate(MARKS)]
    written(folder / "tokenizer.json", tokenizer)
    texts = json.loads((DEMO / "tokenizer_config.json").read_text())
    mark = "'<|' + part['type'] + '|>'"
    template = TEMPLATE.replace(mark, "'<|vision_start|><|image_pad|><|vision_end|>'")
    written(folder / "tokenizer_config.json", {**texts, "model_max_length": CONTEXT, "chat_template": template})
    torch.manual_seed(0)
    model: Any = library.AutoModelForImageTextToText.from_config(configuration(name, known)).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.2 + (weight.mean() > 0.5))
    model.save_pretrained(folder)
    written(folder / "generation_config.json", {"eos_token_id": 0})
    for file, content in preparation(name).items():
        written(folder / file, content)
    if name == "llava":
        rename(folder / "model.safetensors")


def written(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def configuration(name: str, known: int) -> Any:
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}  # as wide as vLLM wants them
    sizes = {"vocab_size": known + len(MARKS), "hidden_size": 64, "intermediate_size": 96}
    text: dict[str, Any] = {**heads, **sizes, "max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 0}
    eye: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_heads": 2}
    if name == "llava":
        clip = {"num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH}
        vision = library.CLIPVisionConfig(**{**eye, **clip})
        language = library.LlamaConfig(**text, head_dim=32)
        tokens = {"image_token_id": known, "image_token_index": known, "image_seq_length": (SIDE // PATCH) ** 2}
        return library.LlavaConfig(vision_config=vision, text_config=language, tie_word_embeddings=False, **tokens)
    ids = {"image_token_id": known, "vision_start_token_id": known + 1, "vision_end_token_id": known + 2}
    whole = {"patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2, "depth": 2}
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    if name == "qwen2_vl":
        given: dict[str, Any] = {**whole, "embed_dim": 64, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
        kind = library.Qwen2VLConfig
    else:
        given = {**whole, **eye, "out_hidden_size": 64, "window_size": SIDE, "fullatt_block_indexes": [1]}
        kind = library.Qwen2_5_VLConfig
    return kind(vision_config=given, text_config=text, video_token_id=known + 3, tie_word_embeddings=False, **ids)


def preparation(name: str) -> dict[str, dict[str, Any]]:
    """How the libraries prepare pictures: vLLM asks theirs how many rows there can be."""
    if name != "llava":
        pixels = {"min_pixels": SIDE * SIDE, "max_pixels": 4 * SIDE * SIDE}
        sizes = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
        return {"preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessor", **pixels, **sizes}}
    cut = {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "size": {"shortest_edge": SIDE}}
    whole = {"processor_class": "LlavaProcessor", "image_token": MARKS[0], "num_additional_image_tokens": 1}
    return {
        "preprocessor_config.json": {"image_processor_type": "CLIPImageProcessor", **cut},
        "processor_config.json": {**whole, "patch_size": PATCH, "vision_feature_select_strategy": "default"},
    }


def rename(path: Path) -> None:
    """From the library's own names to those that vLLM knows, and the library too."""
    from safetensors.torch import load_file, save_file  # type: ignore[import-not-found,unused-ignore]

    found = load_file(path)
    names = {name: name.replace(OURS, THEIRS) if THEIRS not in name else name for name in found}
    save_file({names[name]: weight for name, weight in found.items()}, path, {"format": "pt"})


def prompt_of(sight: Sight, counts: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Texts with a picture between each two, and where these begin."""
    token, firsts = sight.card.token, []
    prompt = [5 + index % 60 for index in range(counts[0])]
    for count in counts[1:]:
        firsts.append(len(prompt) + 1)
        prompt += [token + 1, *[token] * sight.card.tokens, token + 2, *(9 + index % 50 for index in range(count))]
    return prompt, firsts


def job_of(key: str, prompt: list[int], firsts: list[int], rows: list[Any], names: list[int], **more: Any) -> Job:
    """A greedy job. Pictures are called by a number each."""
    parts = zip(firsts, rows, names, strict=True)
    media = [Media(first, len(row), bytes([name]) * 16, row) for first, row, name in parts]
    return Job(key, prompt, ignore_eos=True, sampling=Sampling(temperature=0.0), media=media, **more)


def generated(model: Any, sight: Sight, prompt: list[int], pictures: list[np.ndarray], count: int) -> list[int]:
    """By the library's own `generate`, which gets pixels."""
    ids, given = torch.tensor([prompt]), [taken(picture, sight) for picture in pictures]
    found = {name: torch.cat([one[name] for one in given]) for name in (given[0] if given else ())}
    if sight.patch:
        found["mm_token_type_ids"] = (ids == sight.card.token).int()
    options = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **found, **options)
    return [int(token) for token in made[0, len(prompt) :]]
