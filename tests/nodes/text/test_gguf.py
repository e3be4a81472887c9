"""Tokenizers from GGUF files: as those of the model's directory, or a sentence. The rules of others are llama.cpp's own
test vectors, which were compared when they were written; what is here needs no more than this repository."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nodes.folder import DEMO, ModelRefused, contents_of, file_of, folder_of, name_of
from nodes.text.gguf import CUTS, LLAMA, files_of, read
from nodes.text.tokenizer import ModelFiles, Tokenizer
from nodes.tiers.weights import mark_of
from tests.nodes.engines.ggufs import packed, shape_of, words_of

FOLDER = folder_of(DEMO)
TEXTS = (
    "",
    "Hello, world!",
    "  two  spaces\n\n\tand tabs ",
    "It's 12345 o'clock; naïve café 你好 🙂🙂",
    "<|user|>hi<|end|>",
    "x" * 300,
)
PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "\u2581",
    "a",
    "b",
    "c",
    "\u2581a",
    "ab",
    "\u2581ab",
    "bc",
    "cc",
    "<tool>",
]
SCORES = {"\u2581a": -1.0, "ab": -2.0, "\u2581ab": -3.0, "bc": -1.5, "cc": -4.0}


def tokenizer_of(told: dict[str, Any]) -> Tokenizer:
    return Tokenizer(ModelFiles(**files_of(read(packed(told, {})))))


def spm(**more: Any) -> dict[str, Any]:
    kinds = [2, 3, 3, *[6] * 256, *[1] * 9, 4]
    words = {
        "model": "llama",
        "tokens": PIECES,
        "scores": [SCORES.get(text, -100.0) for text in PIECES],
        "token_type": kinds,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **more,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in words.items()}


def test_it_says_what_the_directory_says() -> None:
    ours = tokenizer_of({**shape_of(FOLDER, False), **words_of(FOLDER)})
    theirs = Tokenizer(ModelFiles(**contents_of(FOLDER)))
    random = Random(3)
    corpus = [
        *TEXTS,
        *(
            "".join(chr(random.choice((random.randrange(32, 127), random.randrange(160, 0x2FFF)))) for _ in range(60))
            for _ in range(30)
        ),
    ]
    for text in corpus:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text), skip_special=False) == theirs.decode(
            theirs.encode(text), skip_special=False
        )
    assert (ours.eos_tokens, ours.template, ours.context) == (theirs.eos_tokens, theirs.template, theirs.context)
    assert ours.vocabulary == theirs.vocabulary and ours.specials["eos_token"] == theirs.specials["eos_token"]


def test_pieces_with_scores_merge_the_likeliest_first() -> None:
    tokenizer = tokenizer_of(spm())
    named = tokenizer.named
    assert tokenizer.encode("abc") == [1, named("\u2581a"), named("bc")], "the best pair first, not the longest piece"
    assert tokenizer.encode("ab", add_special=False) == [named("\u2581ab")]
    assert tokenizer.encode("a<tool>\u00e9", add_special=False)[1:] == [
        named("<tool>"),
        named("\u2581"),
        named("<0xC3>"),
        named("<0xA9>"),
    ]
    assert tokenizer.decode(tokenizer.encode("ab bc a\u00e9")) == "ab bc a\u00e9"
    assert tokenizer.eos_tokens == (2,) and tokenizer.is_special(1)
    bare = tokenizer_of(spm(add_space_prefix=0, add_bos_token=0))
    assert bare.encode("ab") == [named("ab")] and bare.decode([named("ab") or 0]) == "ab"


def test_some_rules_begin_each_text_with_a_token() -> None:
    words = {**words_of(FOLDER), "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.bos_token_id": 1}
    assert tokenizer_of(words).encode("hi")[0] == 1
    assert tokenizer_of({**words, "tokenizer.ggml.add_bos_token": 0}).encode("hi")[0] != 1
    assert CUTS["llama-bpe"] == LLAMA


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"tokenizer.ggml.pre": "tekken"}, "it cuts texts by the rule 'tekken', which only llama.cpp knows"),
        ({"tokenizer.ggml.model": "t5"}, "its tokenizer is of the kind 't5'"),
        ({"tokenizer.ggml.model": "llama"}, "its tokens have no scores"),
        ({"tokenizer.ggml.token_type": [1]}, "it names no tokens"),
    ],
)
def test_what_is_not_known_is_not_guessed(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        files_of({**words_of(FOLDER), **changed})


def test_a_damaged_head_is_a_sentence() -> None:
    whole = packed({**shape_of(FOLDER, False), **words_of(FOLDER)}, {})
    random = Random(5)
    for stop in (0, 3, 10, 24, 30, *(random.randrange(len(whole) - 40) for _ in range(60))):
        with pytest.raises(ValueError):
            read(whole[:stop])
    for _ in range(300):  # whatever is written over it is refused, or ends too early
        broken = bytearray(whole[:3000])
        for _ in range(4):
            broken[random.randrange(len(broken))] = random.randrange(256)
        with pytest.raises(ValueError):
            read(bytes(broken))


def test_a_file_is_a_model(tmp_path: Path) -> None:
    file = tmp_path / "tiny.Q4.gguf"
    file.write_bytes(packed({**shape_of(FOLDER, False), **words_of(FOLDER)}, {}))
    assert (folder_of(str(file)), name_of(str(file), "")) == (tmp_path, "tiny.Q4")
    found = contents_of(tmp_path, str(file))
    assert found == contents_of(tmp_path) and json.loads(found["generation_config"]) == {"eos_token_id": [0]}
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    assert contents_of(tmp_path, str(file)) == found
    with pytest.raises(ModelRefused, match=r"several models, as other.gguf and tiny.Q4.gguf: name one"):
        contents_of(tmp_path)
    with pytest.raises(ModelRefused, match=r"other.gguf does not say .*Put the model's tokenizer.json beside it"):
        contents_of(tmp_path, str(tmp_path / "other.gguf"))


def test_of_a_file_that_is_named_the_mark_is_its_own(tmp_path: Path) -> None:
    for name in ("a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(name.encode())
    one, parts = mark_of(tmp_path, "a.gguf"), mark_of(tmp_path, "b-00001-of-00002.gguf")
    (tmp_path / "c.gguf").write_bytes(b"another model")
    assert mark_of(tmp_path, "a.gguf") == one and mark_of(tmp_path) != one
    (tmp_path / "b-00002-of-00002.gguf").write_bytes(b"other weights")
    assert mark_of(tmp_path, "a.gguf") == one and mark_of(tmp_path, "b-00001-of-00002.gguf") != parts


def test_which_file_is_meant(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="no GGUF file"):
        file_of("", tmp_path)
    for name in ("b-00001-of-00002.gguf", "b-00002-of-00002.gguf"):
        (tmp_path / name).touch()
    assert file_of("", tmp_path).name == "b-00001-of-00002.gguf"
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ModelRefused, match=r"several models, as a.gguf and b-00001-of-00002.gguf: name one"):
        file_of("", tmp_path)
    assert file_of(str(tmp_path / "a.gguf"), tmp_path).name == "a.gguf"
