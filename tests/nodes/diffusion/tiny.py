"""A tiny pipeline of the diffusers library, with random weights: a real text encoder, U-Net, decoder and scheduler."""

import json
from pathlib import Path
from typing import Any

import pytest

SEED = 5
SIZE = 64  # pixels of its usual picture: 32 of its latents by 2
WORDS = "abcdefghijklmnopqrstuvwxyz"


def make(folder: Path) -> Path:
    """Write it. Skips the test where the library is missing."""
    torch, library = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    texts = pytest.importorskip("transformers")
    pytest.importorskip("tqdm").tqdm.monitor_interval = 0  # a thread that watches progress bars would outlive a test
    torch.manual_seed(SEED)
    unet = library.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=32,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    decoder = library.AutoencoderKL(
        block_out_channels=(8, 16),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    config = texts.CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_hidden_layers=1,
        vocab_size=64,
        max_position_embeddings=77,
        bos_token_id=62,
        eos_token_id=63,
    )
    pipeline = library.StableDiffusionPipeline(
        unet=unet,
        vae=decoder,
        text_encoder=texts.CLIPTextModel(config),
        tokenizer=_tokenizer(folder.parent / f"{folder.name}-tokenizer", texts),
        scheduler=library.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def make_clips(folder: Path) -> Path:
    """Likewise one that makes clips: the same, with layers that know of time."""
    torch, library = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    still = library.DiffusionPipeline.from_pretrained(str(make(folder.parent / f"{folder.name}-still")))
    torch.manual_seed(SEED)
    motion = library.MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=4
    )
    parts = {name: getattr(still, name) for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}
    library.AnimateDiffPipeline(motion_adapter=motion, **parts).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path, texts: Any) -> Any:
    """One token for each letter, alone or at a word's end."""
    folder.mkdir(parents=True)
    names = [*WORDS, *(f"{letter}</w>" for letter in WORDS), *map(str, range(62 - 2 * len(WORDS)))]
    vocabulary = {name: number for number, name in enumerate([*names, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return texts.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
