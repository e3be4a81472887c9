"""The text of a server made into tokens: exactly the same text, and in the model's own tokens where it can be."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from nodes.engines.openai_url.texts import Bytes, Writer
from nodes.text.tokenizer import ModelFiles
from nodes.text.tokenizer import Tokenizer as Ours
from tests.nodes.text.tiny import byte_fallback, byte_level

PIECES = [
    "Hello",
    " world",
    "\n\n",
    "  two",
    "é",
    "漢字",
    "🙂",
    "<s>",
    "hello",
    "lo",
    " ",
    "\t",
    "</s>x",
    "�",
    "a" * 40,
]


def spaced() -> Ours:
    """As Llama 2 has it: a text gets a space before it, and spaces are letters."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁", "h", "e", "l", "o", "w", "r", "d", "▁w", "he"]
    vocabulary = {name: index for index, name in enumerate(names)}
    merges = [("▁", "w"), ("h", "e")]
    library = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence(steps)
    library.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<s>", "</s>")])
    return Ours(ModelFiles(library.to_str().encode()))


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_fallback(), spaced()], ids=["level", "fallback", "spaced"])
def test_each_piece_reads_as_it_was(tokenizer: Ours) -> None:
    before = tokenizer.encode("hello", add_special=False)
    writer, made, text = Writer(tokenizer, Bytes(tokenizer), before), list(before), ""
    for piece in PIECES * 3:
        made += writer.tokens(piece)
        text += piece
        assert tokenizer.decode(made) == tokenizer.decode(before) + text
        assert not any(map(tokenizer.is_special, made[len(before) :]))
    assert writer.tokens("") == []


def test_the_models_own_tokens_are_taken_within_a_word_too() -> None:
    tokenizer = spaced()
    writer = Writer(tokenizer, Bytes(tokenizer), tokenizer.encode("hello", add_special=False))
    names = [tokenizer.named(name) for name in ("he", "l", "▁w")]
    assert writer.tokens("hel") == names[:2] and writer.tokens(" w") == names[2:]


def test_what_the_vocabulary_cannot_write_is_refused() -> None:
    library = Tokenizer(models.BPE(vocab={"<unk>": 0, "a": 1}, merges=[], unk_token="<unk>"))
    library.decoder = decoders.Fuse()
    tokenizer = Ours(ModelFiles(library.to_str().encode()))
    writer = Writer(tokenizer, Bytes(tokenizer), [])
    assert writer.tokens("aa") == [1, 1]
    with pytest.raises(ValueError, match="cannot be written in the model's tokens: is --model the server's model"):
        writer.tokens("b")
