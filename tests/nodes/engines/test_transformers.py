"""The transformers engine against the library's own `generate`. Needs torch: ./launch/test.sh --engine transformers."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
library = pytest.importorskip("transformers")

from nodes.contract.engine import Ending, Job, Sampling  # noqa: E402
from nodes.engines.numpy.config import Unsupported  # noqa: E402
from nodes.engines.numpy.engine import Settings as Batching  # noqa: E402
from nodes.engines.transformers.engine import Settings, TransformersEngine  # noqa: E402
from tests.nodes.engines.handing import advanced, prefilled, room  # noqa: E402
from tests.nodes.engines.models import run  # noqa: E402

library.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own

VOCABULARY, NEW = 200, 12
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("Llama", "Qwen2", "Qwen3", "Phi3", "Olmo2", "Mixtral", "Cohere", "Granite", "SmolLM3"), SHAPE),
    "Mistral": {**SHAPE, "sliding_window": 11},
    "Gemma2": {**SHAPE, "head_dim": 8, "sliding_window": 16},
    "Gemma3Text": {**SHAPE, "head_dim": 8, "sliding_window": 16},
    "GptOss": SHAPE,
    "GPT2": GPT2,
}
PROMPTS = [[3 + (7 * index + 13 * length) % 190 for index in range(length)] for length in (1, 5, 37, 64, 120)]
GREEDY = Sampling(temperature=0.0)


def saved(name: str, folder: Path) -> Any:
    """A random model of a family, in a directory."""
    torch.manual_seed(0)
    model = library.AutoModelForCausalLM.from_config(getattr(library, f"{name}Config")(**FAMILIES[name])).float().eval()
    model.save_pretrained(folder)
    return model


def started(folder: Path, **batching: Any) -> tuple[TransformersEngine, Any]:
    settings: dict[str, Any] = {"step_tokens": 48, "slots": 4, "block_tokens": 8, "cache_bytes": 1 << 24, **batching}
    engine = TransformersEngine(Settings(Batching(str(folder), **settings), "cpu", "float32"))
    return engine, engine.start()


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_are_those_of_generate(name: str, tmp_path: Path) -> None:
    """Prompts are cut, batched and share a cache; the library computes each by itself."""
    model = saved(name, tmp_path)
    engine, card = started(tmp_path)
    assert (card.engine, card.vocabulary, card.context) == ("transformers", VOCABULARY, 256)
    for key, prompt in enumerate(PROMPTS):
        assert engine.submit(Job(key, prompt, max_tokens=NEW, ignore_eos=True, sampling=GREEDY)) is None
    found = run(engine)
    engine.check()
    for key, prompt in enumerate(PROMPTS):
        options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        expected = model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist()
        assert list(found[key].tokens) == expected, key


@pytest.mark.parametrize("name", ["Llama", "Gemma2"])
def test_a_sampled_stream_goes_on_elsewhere_from_its_blocks(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    sampling = Sampling(temperature=0.9, top_p=0.95, seed=5, logprobs=2)
    job = Job("a", PROMPTS[3], max_tokens=20, ignore_eos=True, sampling=sampling)
    whole, card = started(tmp_path)
    assert whole.submit(job) is None
    expected = list(run(whole)["a"].tokens)

    one, _ = started(tmp_path)
    first, blocks = prefilled(one, card, job)
    assert list(first.tokens) == expected[:1] and first.exported == len(job.prompt)

    two, _ = started(tmp_path, caching=False)
    assert two.submit(Job("a", job.prompt, max_tokens=20, ignore_eos=True, sampling=sampling, lands=True)) is None
    two.land("a", blocks, first.exported, list(first.tokens))
    found: dict[Any, Any] = {}
    assert advanced(two, 7, found) == 0, "nothing is prefilled"
    made = [*first.tokens, *found["a"].tokens]
    assert made == expected[: len(made)]

    out = room(card.layout, len(job.prompt) + len(made))
    positions = two.cancel("a", out)
    assert positions == len(job.prompt) + len(made) - 1
    three, _ = started(tmp_path, caching=False)
    rest = Job("a", job.prompt, made, max_tokens=20, ignore_eos=True, sampling=sampling, lands=True)
    assert three.submit(rest) is None
    three.land("a", out, positions, [])
    last = run(three)["a"]
    assert [*made, *last.tokens] == expected and last.ending is Ending.LENGTH


def test_the_prefix_of_another_is_not_computed_again(tmp_path: Path) -> None:
    saved("Llama", tmp_path)
    engine, _ = started(tmp_path)
    for key in ("a", "b"):
        assert engine.submit(Job(key, PROMPTS[4], max_tokens=4, ignore_eos=True, sampling=GREEDY)) is None
        found = run(engine)[key]
    assert found.cached_tokens == 112


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("Mamba", {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1}, "paged cache")],
)
def test_what_cannot_be_served_says_so(name: str, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    FAMILIES[name] = options
    try:
        saved(name, tmp_path)
    finally:
        del FAMILIES[name]
    with pytest.raises(Unsupported, match=words):
        started(tmp_path)


def test_weights_that_lack_something_are_refused(tmp_path: Path) -> None:
    """The library would make up the rest."""
    files = pytest.importorskip("safetensors.torch")
    saved("Llama", tmp_path)
    tensors = files.load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    files.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(Unsupported, match=r"lack 1 tensors, as model\.layers\.1\.mlp\.up_proj"):
        started(tmp_path)


def test_a_directory_without_a_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Unsupported, match="transformers cannot load"):
        started(tmp_path)
