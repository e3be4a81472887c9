"""Tokenizers are made of content, say what models are, and refuse bad files in one sentence."""

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.text.tokenizer import SLAB_CHARS, ModelFiles, Tokenizer, digest
from tests.nodes.text.tiny import TEMPLATE, TEXT, byte_fallback, byte_level


@given(st.text(max_size=60))
def test_byte_level_takes_any_text(text: str) -> None:
    tokenizer = byte_level()
    tokens = tokenizer.encode(text)
    assert b"".join(tokenizer.spell(token) for token in tokens) == text.encode()


def test_what_its_files_say() -> None:
    tokenizer = byte_level()
    assert tokenizer.eos_tokens == (1, 2)
    assert tokenizer.context == 2048
    assert tokenizer.specials == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.template == TEMPLATE
    assert tokenizer.encode("<|eot|>") == [2]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_spelling_with_byte_fallback() -> None:
    tokenizer = byte_fallback()
    names = ("▁world", "<0xE2>", "é")
    assert [tokenizer.spell(tokenizer.named(name) or 0) for name in names] == [b" world", b"\xe2", "é".encode()]
    assert tokenizer.spell(10**6) == b""


def files(**content: bytes) -> ModelFiles:
    library: bytes = byte_level()._library.to_str().encode()
    return ModelFiles(library, **content)


@pytest.mark.parametrize(
    ("content", "eos"),
    [
        ({"config": b'{"eos_token_id": 7}'}, (7,)),
        ({"config": b'{"text_config": {"eos_token_id": 7}}'}, (7,)),
        ({"tokenizer_config": b'{"eos_token": "</s>"}'}, (1,)),
        ({"config": b'{"eos_token_id": 7}', "generation_config": b'{"eos_token_id": [8, 8, 9]}'}, (8, 9)),
        ({}, ()),
    ],
)
def test_where_the_end_of_sequence_is_found(content: dict[str, bytes], eos: tuple[int, ...]) -> None:
    assert Tokenizer(files(**content)).eos_tokens == eos


@pytest.mark.parametrize(
    ("content", "template"),
    [
        ({"tokenizer_config": b'{"chat_template": "A"}'}, "A"),
        ({"tokenizer_config": b'{"chat_template": "A"}', "chat_template": b"{{ B }}"}, "{{ B }}"),
        ({"chat_template": b'{"chat_template": "C"}'}, "C"),
        (
            {
                "tokenizer_config": json.dumps(
                    {"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}
                ).encode()
            },
            "D",
        ),
        ({}, ""),
    ],
)
def test_where_the_template_is_found(content: dict[str, bytes], template: str) -> None:
    assert Tokenizer(files(**content)).template == template


@pytest.mark.parametrize(
    "bad",
    [
        ModelFiles(b""),
        ModelFiles(b"\xff"),
        ModelFiles(b"{}"),
        files(config=b"["),
        files(tokenizer_config=b"[]"),
        files(chat_template=b"x" * 300_000),
    ],
)
def test_bad_files_are_refused_in_a_sentence(bad: ModelFiles) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|longer than"):
        Tokenizer(bad)


def test_the_digest_names_the_content() -> None:
    assert digest(ModelFiles(b"a", b"b")) == digest(ModelFiles(b"a", b"b"))
    made = [ModelFiles(b"ab"), ModelFiles(b"a", b"b"), ModelFiles(b"a", b"", b"b"), ModelFiles(b"", b"ab")]
    assert len({digest(each) for each in made}) == len(made)


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@pytest.mark.parametrize("text", ["hello world " * 20_000, "a" * 200_000, "short"])
def test_a_text_that_is_too_long_is_not_encoded_as_a_whole(
    make: Callable[[], Tokenizer], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make()
    whole = tokenizer.encode(text)
    found = tokenizer.at_most(text, len(whole))
    assert not isinstance(found, int) and [*found] == whole
    longest, packed = [0], tokenizer.packed

    def noted(piece: str, add_special: bool = True) -> Sequence[int]:
        longest.append(len(piece))
        return packed(piece, add_special)

    monkeypatch.setattr(tokenizer, "packed", noted)
    least = tokenizer.at_most(text, 100)
    if len(whole) > 1000:
        assert isinstance(least, int) and 100 < least <= len(whole)
        assert max(longest) <= SLAB_CHARS
    else:
        assert not isinstance(least, int) and [*least] == whole
