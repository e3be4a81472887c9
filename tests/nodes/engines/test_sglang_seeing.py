"""SGLang with pictures: as `generate` says of the same pixels, whoever has looked at them; called by what they show.

Needs SGLang: ./launch/test.sh --engine sglang
"""

import gc
import json
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest as digest

if find_spec("sglang") is None or find_spec("sgl_kernel") is None:
    pytest.skip("SGLang is not installed here", allow_module_level=True)

from nodes.contract import blocks
from nodes.contract.engine import Ending
from nodes.contract.media import hashed_tokens
from nodes.engines.transformers import vision
from nodes.engines.transformers.library import library
from tests.conftest import children, threads
from tests.engines.harness import Harness
from tests.engines.of_sglang import SETTINGS, sglang
from tests.nodes.engines import seers
from tests.nodes.engines.senses import random_picture

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own
NEW, BLOCK = 10, 16


class House(NamedTuple):
    """One engine, and who knows better."""

    harness: Harness
    model: Any
    sight: vision.Sight
    eyes: vision.Towers


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """As for every test, but for descriptors of SGLang's."""
    before = threads() | children()
    yield
    gc.collect()
    left = (threads() | children()) - before
    assert not left, f"left open: {sorted(left)}"


@pytest.fixture(scope="module", params=seers.NAMES[1:])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """SGLang does not start with a LLaVA whose tower is CLIP's: it has no such tower in its registry."""
    folder: Path = tmp_path_factory.mktemp("seer")
    seers.make(request.param, folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["in_chans"] = 3  # as those say who were made with older versions of the library
    (folder / "config.json").write_text(json.dumps(config))
    library.utils.logging.disable_progress_bar()
    model = library.AutoModelForImageTextToText.from_pretrained(folder).float().eval()
    sight, eyes = vision.sight_of(folder), vision.load(folder, "cpu", "float32")
    assert sight is not None and eyes is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "SGLANG_EXTERNAL_MODEL_PACKAGE", "few_seers")
        harness = Harness(sglang(folder, 4, 4096, True), outside=True)
    try:
        yield House(harness, model, sight, eyes)
    finally:
        harness.stop()


def picture(sight: vision.Sight, seed: int) -> np.ndarray:
    return random_picture(seed, sight.card.height, sight.card.width)


def test_greedy_tokens_are_those_of_generate(house: House) -> None:
    """Several requests at once, with no, one and two pictures, more than once the same."""
    harness, sight = house.harness, house.sight
    assert harness.card.media == {"image": sight.card}
    expected, jobs = {}, []
    for seeds, counts in [((), (9,)), ((1,), (5, 7)), ((2,), (30, 3)), ((1, 3), (4, 6, 11)), ((2, 2), (4, 6, 11))]:
        pictures = [picture(sight, seed) for seed in seeds]
        prompt, firsts = seers.prompt_of(sight, counts)
        key = f"{seeds}"
        expected[key] = seers.generated(house.model, sight, prompt, pictures, NEW)
        rows = [house.eyes.encode("image", one) for one in pictures]
        jobs.append(seers.job_of(key, prompt, firsts, rows, [*seeds], max_tokens=NEW))
    found = {output.key: list(output.tokens) for output in harness.run(*jobs)}
    assert found == expected
    assert len({tuple(tokens) for tokens in found.values()}) == len(jobs)


def test_the_workers_eyes_see_what_the_librarys_see(house: House) -> None:
    towers = house.harness.engine.towers
    shown = picture(house.sight, 5)
    assert np.abs(towers.encode("image", shown) - house.eyes.encode("image", shown)).max() < 1e-5
    with pytest.raises(ValueError, match="no audio"):
        towers.encode("audio", np.zeros(9, np.float32))


def test_pictures_of_any_size(house: House) -> None:
    """Wide and high."""
    sight = house.sight
    for index, (height, width) in enumerate([(56, 112), (112, 28)]):
        shown = random_picture(index, height, width)
        rows = house.eyes.encode("image", shown)
        token = sight.card.token
        prompt = [5, 6, token + 1, *[token] * len(rows), token + 2, 7, 8]
        job = seers.job_of(f"size {index}", prompt, [3], [rows], [90 + index], max_tokens=NEW)
        job.media[0].across = width // sight.card.step
        [output] = house.harness.run(job)
        assert list(output.tokens) == seers.generated(house.model, sight, prompt, [shown], NEW)


def test_what_a_moved_stream_made_before_counts(house: House) -> None:
    """And a picture that stands in the prompt stands nowhere in what was generated."""
    sight, shown = house.sight, picture(house.sight, 6)
    prompt, firsts = seers.prompt_of(sight, (6, 8))
    said = seers.generated(house.model, sight, prompt, [shown], NEW)
    rows = [house.eyes.encode("image", shown)]
    moved = seers.job_of("moved", prompt, firsts, rows, [6], max_tokens=NEW, generated=said[:4])
    [output] = house.harness.run(moved)
    assert list(output.tokens) == said[4:]


def test_blocks_are_called_by_what_they_show(house: House) -> None:
    """A known picture is not computed again, another one in its place is; and routers know which is which."""
    harness, sight = house.harness, house.sight
    prompt, firsts = seers.prompt_of(sight, (50, 40))
    rows = [house.eyes.encode("image", picture(sight, seed)) for seed in (7, 8)]
    jobs = [
        seers.job_of(f"block {number}", prompt, firsts, [row], [name], max_tokens=2)
        for number, (row, name) in enumerate([(rows[0], 7), (rows[0], 7), (rows[1], 8)])
    ]
    outputs = [harness.run(job)[0] for job in jobs]
    whole = (len(prompt) - 1) // BLOCK * BLOCK
    assert outputs[0].cached_tokens < firsts[0], "nobody has seen this picture here"
    assert [output.cached_tokens for output in outputs[1:]] == [whole, firsts[0] // BLOCK * BLOCK]
    for job in jobs:
        wanted = {*blocks.chain(hashed_tokens(prompt, job.media), BLOCK, 0, digest)}
        harness.until(partial(is_told, harness, wanted))
    assert not {*blocks.chain(prompt, BLOCK, 0, digest)[firsts[0] // BLOCK :]} & told(harness), "placeholders alone"


def is_told(harness: Harness, wanted: set[int]) -> bool:
    return wanted <= told(harness)


def told(harness: Harness) -> set[int]:
    harness.turn()
    return {name for event in harness.events if event.kind == "stored" for name in event.hashes}


def test_what_it_would_die_of_is_refused(house: House) -> None:
    harness, sight = house.harness, house.sight
    prompt, firsts = seers.prompt_of(sight, (6, 8))
    rows = house.eyes.encode("image", picture(sight, 9))
    job = seers.job_of("refused", prompt, firsts, [rows], [9], max_tokens=2)
    wrong = []
    for change in (None, rows[:, :-1], rows[:-1]):
        job.media[0].embedding = change
        wrong.append(harness.submit(job) or "")
    job.media[0].embedding, job.media[0].first = rows, firsts[0] - 1
    wrong.append(harness.submit(job) or "")
    told_why = ["have not come" in wrong[0], "shape" in wrong[1], "shape" in wrong[2], "placeholders" in wrong[3]]
    assert told_why == [True] * 4, wrong
    job.media[0].first = firsts[0]
    [output] = harness.run(job)
    assert output.ending is Ending.LENGTH
