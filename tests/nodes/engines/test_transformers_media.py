"""Models of the transformers library that see, against its own `generate`. Needs torch: see test_transformers.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
library = pytest.importorskip("transformers")

from nodes.contract.engine import Job, MediaCard, Sampling, lines_for  # noqa: E402
from nodes.contract.media import Media  # noqa: E402
from nodes.encoding import _towers as towers_of  # noqa: E402
from nodes.engine_options import EngineOptions  # noqa: E402
from nodes.engines.numpy.towers import load as numpy_towers  # noqa: E402
from nodes.engines.transformers import vision  # noqa: E402
from nodes.engines.transformers.grids import places  # noqa: E402
from tests.nodes.engines.handing import advanced, prefilled  # noqa: E402
from tests.nodes.engines.models import run  # noqa: E402
from tests.nodes.engines.senses import random_picture  # noqa: E402
from tests.nodes.engines.test_transformers import started  # noqa: E402

library.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own
PLACEHOLDER, BEGIN, CLOSE, NEW = 69, 66, 67, 10
TEXT: dict[str, Any] = {
    "vocab_size": 70,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
EYE: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3}
WHOLE: dict[str, Any] = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
SECTIONS = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
PREPARED = '{"max_pixels": 1024}'  # 32 pixels: 16 rows of 2 x 2 patches
NAMES = ("llava", "qwen2_vl", "qwen2_5_vl")
GREEDY = Sampling(temperature=0.0)


def config_of(name: str) -> Any:
    if name == "llava":
        eye = library.CLIPVisionConfig(**EYE, image_size=28, patch_size=7)
        text = library.LlamaConfig(**TEXT)
        return library.LlavaConfig(vision_config=eye, text_config=text, image_token_id=PLACEHOLDER)
    ids = {"image_token_id": PLACEHOLDER, "vision_start_token_id": BEGIN, "vision_end_token_id": CLOSE}
    text = {**TEXT, "rope_parameters": SECTIONS}
    if name == "qwen2_vl":
        eye = {**WHOLE, "embed_dim": 24, "hidden_size": 32, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
        return library.Qwen2VLConfig(vision_config=eye, text_config=text, **ids)
    eye = {**WHOLE, "hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 40, "depth": 2, "num_heads": 3}
    more = {"window_size": 16, "fullatt_block_indexes": [1]}
    return library.Qwen2_5_VLConfig(vision_config={**eye, **more}, text_config=text, **ids)


def saved(name: str, folder: Path) -> Any:
    """A random model, in a directory."""
    torch.manual_seed(0)
    model = library.AutoModelForImageTextToText.from_config(config_of(name)).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.2 + (weight.mean() > 0.5))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(PREPARED)
    return model


def pixels_of(sight: vision.Sight, pictures: list[np.ndarray]) -> dict[str, Any]:
    """Pictures, prepared by the library's definition."""
    mean, deviation = torch.tensor(sight.mean), torch.tensor(sight.deviation)
    coloured = [((torch.tensor(picture) / 255.0 - mean) / deviation).permute(2, 0, 1) for picture in pictures]
    if not sight.patch:
        return {"pixel_values": torch.stack(coloured)}
    rows = [by_hand(picture, sight) for picture in coloured]
    grids = [[1, picture.shape[0] // sight.patch, picture.shape[1] // sight.patch] for picture in pictures]
    return {"pixel_values": torch.cat(rows), "image_grid_thw": torch.tensor(grids)}


def by_hand(picture: Any, sight: vision.Sight) -> Any:
    """A patch after the other: those of a row first, then the next row, then the next line of rows."""
    side, merged, rows = sight.patch, sight.merged, []
    for down in range(picture.shape[1] // (side * merged)):
        for right in range(picture.shape[2] // (side * merged)):
            for line in range(merged):
                for column in range(merged):
                    top, left = (down * merged + line) * side, (right * merged + column) * side
                    patch = picture[:, top : top + side, left : left + side]
                    rows.append(patch[:, None].expand(-1, sight.frames, -1, -1).reshape(-1))
    return torch.stack(rows)


def asked(sight: vision.Sight, counts: tuple[int, ...]) -> tuple[list[int], list[tuple[int, int]]]:
    """A prompt of texts with a picture between each two, and where these are."""
    prompt, spots = [3 + index % 60 for index in range(counts[0])], []
    for count in counts[1:]:
        spots.append((len(prompt) + 1, sight.card.tokens))
        prompt += [BEGIN, *[PLACEHOLDER] * sight.card.tokens, CLOSE, *(5 + index % 50 for index in range(count))]
    return prompt, spots


def job_of(key: str, prompt: list[int], spots: list[tuple[int, int]], rows: list[np.ndarray], **more: Any) -> Job:
    media = [
        Media(first, count, bytes([index]) * 16, row)
        for index, ((first, count), row) in enumerate(zip(spots, rows, strict=True))
    ]
    return Job(key, prompt, max_tokens=NEW, ignore_eos=True, sampling=GREEDY, media=media, **more)


def generated(model: Any, sight: vision.Sight, prompt: list[int], pictures: list[np.ndarray]) -> list[int]:
    ids = torch.tensor([prompt])
    given = pixels_of(sight, pictures) if pictures else {}
    if sight.patch:
        given["mm_token_type_ids"] = (ids == PLACEHOLDER).int()
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **given, **options)
    return list(found[0, len(prompt) :].tolist())


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_are_those_of_generate(name: str, tmp_path: Path) -> None:
    """Several requests in a batch, with no, one and two pictures, cut into pieces of other sizes than theirs."""
    model = saved(name, tmp_path)
    engine, card = started(tmp_path, slots=3, step_tokens=20)
    sight = vision.sight_of(tmp_path)
    assert sight is not None and card.media == {"image": sight.card} and sight.card.tokens == 16
    side = sight.card.height
    expected = {}
    for seed, counts in enumerate([(9,), (5, 7), (30, 3), (4, 6, 11)]):
        pictures = [random_picture(10 * seed + index, side, side) for index in range(len(counts) - 1)]
        prompt, spots = asked(sight, counts)
        key = f"{counts}"
        expected[key] = generated(model, sight, prompt, pictures)
        rows = [engine.encode("image", picture) for picture in pictures]
        assert engine.submit(job_of(key, prompt, spots, rows)) is None
    found = run(engine)
    engine.check()
    assert {key: list(output.tokens) for key, output in found.items()} == expected
    assert len({tuple(tokens) for tokens in expected.values()}) > 1


@pytest.mark.parametrize("name", NAMES)
def test_what_an_encoder_makes_is_the_same_to_the_bit_and_so_is_what_is_handed_over(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    whole, card = started(tmp_path, caching=False)
    encoder = towers_of(tmp_path, EngineOptions(str(tmp_path), engine="transformers", device="cpu", dtype="float32"))
    sight = vision.sight_of(tmp_path)
    assert sight is not None and encoder is not None and encoder.cards == {"image": sight.card}
    picture = random_picture(7, sight.card.height, sight.card.width)
    rows = encoder.encode("image", picture)
    assert rows.tobytes() == whole.encode("image", picture).tobytes()
    prompt, spots = asked(sight, (6, 9))
    job = job_of("a", prompt, spots, [rows])
    assert whole.submit(job) is None
    expected = list(run(whole)["a"].tokens)

    prefill, _ = started(tmp_path)
    first, blocks = prefilled(prefill, card, job)
    decode, _ = started(tmp_path, caching=False)
    media = [Media(*spot, bytes([0]) * 16) for spot in spots]  # it needs no rows of what lands
    lands = Job("a", prompt, max_tokens=NEW, ignore_eos=True, sampling=GREEDY, media=media, lands=True)
    assert decode.submit(lands) is None
    decode.land("a", blocks, first.exported, list(first.tokens))
    found: dict[Any, Any] = {}
    assert advanced(decode, NEW, found) == 0, "nothing is prefilled"
    assert [*first.tokens, *found["a"].tokens] == expected


@pytest.mark.parametrize("name", NAMES[1:])
def test_pictures_of_any_size(name: str, tmp_path: Path) -> None:
    """Wide, high, and of one row: as `generate` sees them."""
    model = saved(name, tmp_path)
    engine, card = started(tmp_path, slots=3, step_tokens=20)
    sight = vision.sight_of(tmp_path)
    assert sight is not None and (card.media["image"].step, card.media["image"].pixels_max) == (8, 1024)
    expected = {}
    for index, shapes in enumerate([[(16, 64)], [(40, 24)], [(8, 8), (32, 24)], [(8, 128), (64, 16)]]):
        pictures = [random_picture(10 * index + seed, *shape) for seed, shape in enumerate(shapes)]
        rows = [engine.encode("image", picture) for picture in pictures]
        prompt, media = [5, 6, 7], []
        for number, (row, shape) in enumerate(zip(rows, shapes, strict=True)):
            assert len(row) == shape[0] * shape[1] // 64
            media.append(Media(len(prompt) + 1, len(row), bytes([10 * index + number]) * 16, row, shape[1] // 8))
            prompt += [BEGIN, *[PLACEHOLDER] * len(row), CLOSE, 8, 9]
        expected[f"{shapes}"] = generated(model, sight, prompt, pictures)
        job = Job(f"{shapes}", prompt, max_tokens=NEW, ignore_eos=True, sampling=GREEDY, media=media)
        assert engine.submit(job) is None
    assert {key: list(output.tokens) for key, output in run(engine).items()} == expected
    for shape in ((8, 136), (12, 8), (0, 8)):
        with pytest.raises(ValueError, match="shape"):
            engine.encode("image", np.zeros((*shape, 3), np.uint8))


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (640, 480), (4000, 3000), (31, 997), (57, 56), (84, 84), (1, 1)])
@pytest.mark.parametrize("limits", [(56 * 56, 14 * 14 * 4 * 1280), (3136, 12544), (200704, 401408)])
def test_lines_are_counted_as_the_library_counts_them(shape: tuple[int, int], limits: tuple[int, int]) -> None:
    resize = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize
    height, width = shape
    card = MediaCard(5, 8, step=28, pixels_min=limits[0], pixels_max=limits[1])
    wanted = resize(height, width, 28, *limits)
    assert tuple(28 * count for count in lines_for(card, width, height)) == tuple(wanted)


def test_ours_and_numpys_eyes_see_the_same(tmp_path: Path) -> None:
    saved("llava", tmp_path)
    sight, ours = vision.sight_of(tmp_path), vision.load(tmp_path, "cpu", "float32")
    theirs = numpy_towers(tmp_path)
    assert sight is not None and ours is not None and theirs is not None and theirs.cards == ours.cards
    picture = random_picture(3, sight.card.height, sight.card.width)
    assert np.abs(ours.encode("image", picture) - theirs.encode("image", picture)).max() < 1e-4


@pytest.mark.parametrize("shapes", [(4, 4), (2, 8), (1, 16), (16, 2)])
def test_places_are_those_of_the_library(shapes: tuple[int, int], tmp_path: Path) -> None:
    model = saved("qwen2_vl", tmp_path)
    sight = vision.sight_of(tmp_path)
    assert sight is not None
    prompt, spots = asked(sight, (5, 3, 9))
    ids = torch.tensor([prompt])
    grid = torch.tensor([[1, 2 * lines, 2 * (16 // lines)] for lines in shapes])
    expected, _ = model.model.get_rope_index(ids, (ids == PLACEHOLDER).int(), image_grid_thw=grid)
    media = [Media(*spot, b"", None, 16 // lines) for spot, lines in zip(spots, shapes, strict=True)]
    whole = places(media, 0, len(prompt))
    assert np.array_equal(whole, expected[:, 0].numpy())
    for start in range(len(prompt)):
        assert np.array_equal(places(media, start, start + 3)[:, :1], whole[:, start : start + 1])


@pytest.mark.parametrize(
    ("array", "kind", "words"),
    [
        (np.zeros((8, 8, 3), np.uint8), "image", "not of the shape"),
        (np.zeros((28, 28, 3), np.float32), "image", "not of the shape"),
        (np.zeros(9, np.float32), "audio", "takes no audio"),
    ],
)
def test_what_is_no_picture_of_its_shape_is_refused(array: np.ndarray, kind: str, words: str, tmp_path: Path) -> None:
    saved("llava", tmp_path)
    towers = vision.load(tmp_path, "cpu", "float32")
    assert towers is not None
    with pytest.raises(ValueError, match=words):
        towers.encode(kind, array)
