"""Detokenizers never split a character, and say in the end what decoding all at once says."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.text.detokenizer import REPLACEMENT, Detokenizer, unfinished
from tests.nodes.text.tiny import byte_fallback, byte_level

IDS = st.lists(st.integers(0, byte_level().vocabulary + 3), max_size=40)
CUTS = st.lists(st.integers(1, 5), min_size=1, max_size=40)
VALID = st.text(st.sampled_from("aé日😀👩\u200d hello"), max_size=20)


def pieces(detokenizer: Detokenizer, tokens: list[int], cuts: list[int]) -> list[str]:
    found, at, index = [], 0, 0
    while at < len(tokens):
        size = cuts[index % len(cuts)]
        found.append(detokenizer.feed(tokens[at : at + size]))
        at, index = at + size, index + 1
    return [*found, detokenizer.finish()]


@given(IDS, CUTS, st.booleans())
def test_byte_level_equals_decoding_all_at_once(tokens: list[int], cuts: list[int], skip: bool) -> None:
    tokenizer = byte_level()
    assert "".join(pieces(tokenizer.detokenizer(skip_special=skip), tokens, cuts)) == tokenizer.decode(tokens, skip)


@given(VALID, CUTS)
def test_byte_level_never_splits_a_character(text: str, cuts: list[int]) -> None:
    tokenizer = byte_level()
    shown = pieces(tokenizer.detokenizer(), tokenizer.encode(text), cuts)
    assert "".join(shown) == text
    assert not any(REPLACEMENT in piece for piece in shown)


@given(VALID, CUTS)
def test_byte_fallback_never_splits_a_character(text: str, cuts: list[int]) -> None:
    tokenizer = byte_fallback()
    tokens = [tokenizer.named(f"<0x{byte:02X}>") or 0 for byte in text.encode()]
    shown = pieces(tokenizer.detokenizer(), tokens, cuts)
    assert "".join(shown) == tokenizer.decode(tokens)
    assert not any(REPLACEMENT in piece for piece in shown)


def test_byte_fallback_does_not_wait_for_ever() -> None:
    tokenizer = byte_fallback()
    bad, word = tokenizer.named("<0x80>") or 0, tokenizer.named("▁world") or 0
    detokenizer = tokenizer.detokenizer()
    shown = detokenizer.feed([bad] * 20)
    assert shown == REPLACEMENT * 16 and detokenizer.pending
    assert detokenizer.feed([word]).endswith("world")


def test_a_word_keeps_its_space_after_a_prompt() -> None:
    tokenizer = byte_fallback()
    hello, world = tokenizer.named("▁hello") or 0, tokenizer.named("▁world") or 0
    assert tokenizer.detokenizer().feed([world]) == "world"
    assert tokenizer.detokenizer([1, hello]).feed([world]) == " world"


def test_a_special_token_between_the_bytes_of_a_character() -> None:
    for tokenizer, names in ((byte_level(), ("Ã", "©")), (byte_fallback(), ("<0xC3>", "<0xA9>"))):
        first, second = (tokenizer.named(name) or 0 for name in names)
        detokenizer = tokenizer.detokenizer()
        assert [detokenizer.feed([first]), detokenizer.feed([2]), detokenizer.feed([second])] == ["", "", "é"]
        assert not detokenizer.pending


@given(IDS, st.integers(0, 40))
def test_rebuilt_from_its_tokens_it_goes_on_alike(tokens: list[int], at: int) -> None:
    tokenizer = byte_level()
    first, again = tokenizer.detokenizer(), tokenizer.detokenizer()
    first.feed(tokens[:at])
    for token in tokens[:at]:
        again.feed([token])
    assert first.pending == again.pending
    assert first.feed(tokens[at:]) + first.finish() == again.feed(tokens[at:]) + again.finish()


BYTES = b"\x41\x80\x90\xa0\xbf\xc1\xc3\xe0\xe1\xed\xf0\xf1\xf4\xf5"  # one on each side of each border in UTF-8's table


@pytest.mark.parametrize("length", range(4))
def test_unfinished_is_what_may_still_become_a_character(length: int) -> None:
    for data in map(bytes, product(BYTES, repeat=length)):
        hopes = [size for size in range(1, length + 1) if any(completes(data[-size:] + more) for more in ENDINGS)]
        assert unfinished(data) == max(hopes, default=0), data


ENDINGS = [bytes([byte]) * count for byte in (0x80, 0x90, 0xA0, 0xBF) for count in (1, 2, 3)]


def completes(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False
