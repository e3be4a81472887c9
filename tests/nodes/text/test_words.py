"""A text's tokens are those of its pieces: compared with the library on texts that try to break it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from nodes.folder import DEMO, folder_of
from nodes.text import words
from nodes.text.tokenizer import ModelFiles
from nodes.text.tokenizer import Tokenizer as Ours
from nodes.text.words import WORDS_MAX, Words, separable

LINES = ["the cat isn't in the hat's box", "Ünïcode wörds ÅÅ 123 4567", "a b c  d\n e\tf", "it's we'll I'd"]
CORPUS = LINES * 20
SPECIAL = "<|turn|>"
PIECES = [
    *"abXYZ.,'1é\u0301ÿ中🙂 \n\t",
    "  ",
    " a",
    "\n\n",
    "\r\n",
    "a\nb",
    "1\n2",
    ". 1",
    " 12",
    "!\n",
    "\na \n",
    "'s ",
    "'S b",
    SPECIAL,
    "the",
    " cat",
    "a b",
    "\u00a0a",
]
PLAIN = [*(" the cat isn't a b box it's in 7 1984 end. of, (it) a\nb" * 4).split(" ")]
TEXTS = (
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
    | st.text(max_size=30)
    | st.lists(st.sampled_from(PLAIN + PIECES[:20]), min_size=20, max_size=60).map(" ".join)
)


def trained(pattern: str, normalizer: Any = None) -> str:
    """The tokenizer.json of a small vocabulary; an empty pattern is the library's own."""
    made: Any = Tokenizer(models.BPE())
    byte_level: Any = pre_tokenizers.ByteLevel
    made.pre_tokenizer = byte_level(add_prefix_space=False, use_regex=not pattern)
    if pattern:
        split: Any = pre_tokenizers.Split(Regex(pattern), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([split, made.pre_tokenizer])  # type: ignore[list-item]
    if normalizer is not None:
        made.normalizer = normalizer
    made.decoder = decoders.ByteLevel()
    alphabet = byte_level.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[SPECIAL], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return str(made.to_str())


KINDS = [trained(""), *(trained(pattern) for pattern in words._PATTERNS), trained("", normalizers.NFC())]
TOKENIZERS = [Ours(ModelFiles(text.encode())) for text in KINDS]


@given(TEXTS, st.sampled_from(range(len(KINDS))))
def test_the_tokens_are_those_of_the_library(text: str, kind: int) -> None:
    ours = TOKENIZERS[kind]
    assert ours._words is not None
    expected = ours._library_encode([text])[0]
    assert ours.encode(text) == expected
    assert ours.encode(text, add_special=False) == expected, "and again, from memory"


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_real_sentences(kind: int) -> None:
    text = " ".join(CORPUS) + SPECIAL + " ".join(CORPUS)
    assert TOKENIZERS[kind].encode(text) == TOKENIZERS[kind]._library_encode([text])[0]


def test_the_demo_model_is_cut() -> None:
    assert separable(json.loads((folder_of(DEMO) / "tokenizer.json").read_text()))


def changed(path: Sequence[str | int], value: object) -> dict[str, Any]:
    """The tokenizer of GPT-2's kind, but for one thing."""
    found: dict[str, Any] = json.loads(KINDS[0])
    place: Any = found
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model", "type"), "WordPiece"),
        (("model", "dropout"), 0.1),
        (("normalizer",), {"type": "Lowercase"}),
        (("pre_tokenizer",), {"type": "Whitespace"}),
        (("pre_tokenizer", "add_prefix_space"), True),
        (("pre_tokenizer", "use_regex"), False),
        (("pre_tokenizer",), None),
        (("added_tokens", 0, "lstrip"), True),
        (("added_tokens", 0, "content"), "two words"),
        (("added_tokens", 0, "content"), "two\nlines"),
    ],
)
def test_what_we_are_not_sure_of_is_not_cut(path: Sequence[str | int], value: object) -> None:
    assert separable(json.loads(KINDS[0]))
    assert not separable(changed(path, value))


def test_a_pattern_that_is_not_known_is_not_cut() -> None:
    assert not separable(json.loads(trained(r"\w+ \w+|\s+|.")))


LETTERS = str.maketrans("0123456789", "abcdefghij")


def test_the_memory_is_bounded() -> None:
    asked: list[str] = []

    def encode(texts: list[str]) -> list[list[int]]:
        asked.extend(texts)
        return [[len(text)] for text in texts]

    made = Words(encode)
    assert [*made.encode("one two one two")] == [3, 4, 4, 4]
    asked.clear()
    assert [*made.encode("one two")] == [3, 4] and not asked
    for start in range(0, 2 * WORDS_MAX, 4096):
        made.encode(" ".join(f"w{number}w".translate(LETTERS) for number in range(start, start + 4096)))
    assert len(made._spaced) <= len(made._known) <= WORDS_MAX
    asked.clear()
    for _ in range(2):
        assert made.encode("one, two  (three) five") == made.encode("one, two  (three) five")
    assert len(asked) == len(set(asked)), "what stands beside a comma is remembered too"
    asked.clear()
    made.encode("one 170017 two")
    made.encode("one 170017 two")
    assert asked.count(" 170017") == 2, "nor is a long number"
    asked.clear()
    long = "x" * 100
    made.encode(f"{long} a")
    made.encode(f"{long} a")
    assert asked.count(long) == 2, "what hardly comes again is not kept"
