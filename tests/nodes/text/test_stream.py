"""A choice's text and log-probabilities do not depend on how its tokens were cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nodes.contract.engine import Logprobs
from nodes.text.stop import Scanner, Stops
from nodes.text.stream import Entry, TextStream
from tests.nodes.text.tiny import byte_level

IDS = st.lists(st.integers(3, byte_level().vocabulary - 1), max_size=30)
CUTS = st.lists(st.integers(1, 6), min_size=1, max_size=8)


def stream(stops: tuple[str, ...] = (), include: bool = False, min_tokens: int = 0, offset: int = 0) -> TextStream:
    tokenizer = byte_level()
    scanner = Scanner(Stops(stops), include) if stops else None
    return TextStream(tokenizer.detokenizer(), scanner, tokenizer.spell, min_tokens, offset)


def told(made: TextStream, tokens: list[int], cuts: list[int], offset: int = 0) -> tuple[str, list[Entry]]:
    """All text and all entries, and on the way that they belong together."""
    text, entries, at, index = "", [], 0, 0
    while at < len(tokens) and not made.stopped:
        part = tokens[at : at + cuts[index % len(cuts)]]
        text += made.feed(part, [Logprobs(-float(token)) for token in part])
        entries += made.take_entries()
        assert all(entry.offset - offset <= len(text) for entry in entries)
        at, index = at + len(part), index + 1
    text += made.finish()
    return text, entries + made.take_entries()


@given(IDS, CUTS, st.lists(st.sampled_from(["a", "st", "e", " is", "本"]), max_size=3).map(tuple), st.booleans())
def test_cuts_change_nothing(tokens: list[int], cuts: list[int], stops: tuple[str, ...], include: bool) -> None:
    whole, cut = stream(stops, include), stream(stops, include)
    assert told(whole, tokens, [len(tokens) + 1]) == told(cut, tokens, cuts)
    assert whole.tokens == cut.tokens


@given(IDS, CUTS)
def test_every_token_has_its_entry_at_its_place(tokens: list[int], cuts: list[int]) -> None:
    text, entries = told(stream(offset=5), tokens, cuts, 5)
    assert [entry.token for entry in entries] == tokens
    assert b"".join(entry.spelling for entry in entries).decode("utf-8", "replace") == text
    for entry, after in pairwise(entries):
        whole = entry.spelling.decode("utf-8", "replace")
        if "\ufffd" not in text:
            assert text[entry.offset - 5 :].startswith(whole) or "\ufffd" in whole
        assert entry.offset <= after.offset


def test_entries_of_held_text_wait_for_it() -> None:
    tokenizer, made = byte_level(), stream(("STOP",))
    letters = [tokenizer.encode(letter)[0] for letter in "xSTy"]
    seen = [(made.feed([token], [Logprobs(0.0)]), len(made.take_entries())) for token in letters]
    assert seen == [("x", 1), ("", 0), ("", 0), ("STy", 3)]


def test_entries_behind_a_stop_never_leave() -> None:
    tokenizer, made = byte_level(), stream(("ST",))
    letters = [tokenizer.encode(letter)[0] for letter in "xySTz"]
    text = made.feed(letters, [Logprobs(0.0)] * 5)
    assert (text, made.stopped, made.tokens, len(made.take_entries())) == ("xy", True, 4, 2)


def test_a_character_over_several_tokens_brings_all_its_entries() -> None:
    made = stream()
    tokens = byte_level().encode("日")
    tokens = tokens if len(tokens) > 1 else [byte_level().named(letter) or 0 for letter in "æĹ¥"]
    counts = []
    for token in tokens:
        made.feed([token], [Logprobs(0.0)])
        counts.append(len(made.take_entries()))
    assert counts == [0] * (len(tokens) - 1) + [len(tokens)]


def test_stop_strings_wait_for_min_tokens() -> None:
    letters = [byte_level().encode(letter)[0] for letter in "aXbXc"]
    made = stream(("X",), min_tokens=3)
    assert (made.feed(letters), made.tokens) == ("aXb", 4)


def test_plain_text_needs_neither() -> None:
    tokenizer = byte_level()
    made = TextStream(tokenizer.detokenizer())
    assert made.feed(tokenizer.encode("hello 😀")) + made.finish() == "hello 😀"
    assert made.tokens == len(tokenizer.encode("hello 😀"))
