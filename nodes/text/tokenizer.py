"""Shell. A model's texts from the content of its files: tokenizer, special tokens, chat template, end-of-sequence ids.

From content, not from paths: the files travel through the mesh, named by their hash, and a frontend has no model. It
only wraps the `tokenizers` library, which is why it cannot be pure.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Struct
from tokenizers import Tokenizer as Library
from tokenizers.decoders import DecodeStream

from nodes.text.detokenizer import REPLACEMENT, ByteDetokenizer, Detokenizer, Never, Spellings
from nodes.text.words import Words, separable

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its thread pool does not survive a fork, and gains nothing

TEMPLATE_CHARS_MAX = 256 * 1024  # the largest in use have 30,000
STUCK_TOKENS_MAX = 8  # twice the tokens of the longest character: what is not complete by then is no UTF-8
SLAB_CHARS = 64 * 1024  # of a long text, counted at once: 10 MB of memory
CUT_TOKENS = 64  # that a cut in the middle of a word may make more of it
CONTEXT_TOKENS = 4  # of the text before, so that a word's leading space is not lost at the border
COMPOSED_MAX = 4  # characters that NFC makes one of; more than three in a row hardly exist
SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ModelFiles(Struct, frozen=True):
    """What a frontend needs of a model's directory, as bytes; an empty one is absent."""

    tokenizer: bytes  # tokenizer.json
    tokenizer_config: bytes = b""  # tokenizer_config.json
    generation_config: bytes = b""  # generation_config.json
    config: bytes = b""  # config.json
    chat_template: bytes = b""  # chat_template.jinja or chat_template.json


NAMES = {
    "tokenizer": ("tokenizer.json",),
    "tokenizer_config": ("tokenizer_config.json",),
    "generation_config": ("generation_config.json",),
    "config": ("config.json",),
    "chat_template": ("chat_template.jinja", "chat_template.json"),
}  # in which file of the directory each is found, best first


def digest(files: ModelFiles) -> str:
    """The name of this content, everywhere in the mesh."""
    made = blake2b(digest_size=16)
    for content in msgspec.structs.astuple(files):
        made.update(len(content).to_bytes(8, "little") + content)
    return made.hexdigest()


class Tokenizer:
    """One model's tokenizer. Raises ValueError with one clear sentence if its files are no good."""

    def __init__(self, files: ModelFiles) -> None:
        try:
            self._library: Any = Library.from_str(files.tokenizer.decode())
        except Exception as error:  # The library raises plain Exceptions.
            raise ValueError(f"tokenizer.json cannot be read: {str(error)[:200]}") from error
        self._config = _object(files.tokenizer_config, "tokenizer_config.json")
        self._model = _object(files.config, "config.json")
        self._generation = _object(files.generation_config, "generation_config.json")
        self._library.no_truncation()
        self._library.no_padding()
        self._decoder = _kind(files.tokenizer)
        self._words = Words(self._library_encode) if separable(_object(files.tokenizer, "tokenizer.json")) else None
        self._adds = self._library.num_special_tokens_to_add(False) > 0  # around a text, if that is wanted
        normalizer = self._library.normalizer
        self._normalizer = type(normalizer).__name__ if normalizer is not None else None
        self._special = {index for index, added in self._library.get_added_tokens_decoder().items() if added.special}
        self.vocabulary: int = self._library.get_vocab_size(with_added_tokens=True)
        self.template = _template(files.chat_template, self._config)
        self._shown = Spellings(self.spell)
        self._plain = Spellings(lambda token: b"" if token in self._special else self.spell(token))

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """The tokens of a text. It leaves the interpreter free meanwhile, so a long text may be given to a thread."""
        return [*self.packed(text, add_special)]

    def _library_encode(self, texts: list[str], add_special: bool = False) -> list[list[int]]:
        return [found.ids for found in self._library.encode_batch_fast(texts, add_special_tokens=add_special)]

    def packed(self, text: str, add_special: bool = True) -> Sequence[int]:
        """The same; an array, where that is what comes of it."""
        if self._words is None or (add_special and self._adds):
            return self._library_encode([text], add_special)[0]
        return self._words.encode(text)

    def at_most(self, text: str, tokens_max: int, add_special: bool = True) -> Sequence[int] | int:
        """The tokens of a text, or how many it has at least if they are too many: then it is not encoded as a whole.

        An encoding takes a hundred and fifty bytes a token, so a text of many megabytes is counted piece by piece.
        """
        least, counted = self.least(text), 0
        for start in range(0, len(text), SLAB_CHARS) if len(text) > SLAB_CHARS else ():
            if least > tokens_max:
                break
            piece = self.packed(text[start : start + SLAB_CHARS], add_special=False)
            counted += max(0, len(piece) - CUT_TOKENS)
            least = max(least, counted)
        return least if least > tokens_max else self.packed(text, add_special)

    def least(self, text: str) -> int:
        """How many tokens a text has at least; quickly, for a text that is far too long to be counted."""
        return len(text) // self._chars_max if self._chars_max else 0

    @cached_property
    def _chars_max(self) -> int:
        """No token stands for more characters; 0 if that cannot be known."""
        if self._decoder != "ByteLevel" or self._normalizer not in (None, "NFC"):
            return 0
        pieces: dict[str, int] = self._library.get_vocab(with_added_tokens=True)
        return max(map(len, pieces)) * (COMPOSED_MAX if self._normalizer else 1)

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        """The text of tokens, all at once."""
        text: str = self._library.decode(list(tokens), skip_special_tokens=skip_special)
        return text

    def detokenizer(self, before: Sequence[int] = (), skip_special: bool = True) -> Detokenizer:
        """A detokenizer for a stream that follows the tokens `before`."""
        if self._decoder == "ByteLevel":
            return ByteDetokenizer(self._plain if skip_special else self._shown)
        return LibraryDetokenizer(self._library, before, skip_special)

    def spell(self, token: int) -> bytes:
        """The bytes of one token; none for an id beyond the vocabulary."""
        piece = self._library.id_to_token(token)
        if piece is None:
            return b""
        if self._decoder == "ByteLevel":
            return _bytes_of_letters(piece)
        if piece.startswith("<0x") and piece.endswith(">") and len(piece) == 6:
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode()  # type: ignore[no-any-return]

    def named(self, name: str) -> int | None:
        """The id of a token by its text."""
        found: int | None = self._library.token_to_id(name)
        return found

    def is_special(self, token: int) -> bool:
        """Whether a token is left out of the text by itself."""
        return token in self._special

    @cached_property
    def specials(self) -> dict[str, str]:
        """The special tokens' texts by their names, as chat templates know them."""
        found = {name: _content(self._config.get(name)) for name in SPECIALS}
        return {name: text for name, text in found.items() if text}

    @cached_property
    def eos_tokens(self) -> tuple[int, ...]:
        """The ids that end a sequence."""
        inner = self._model.get("text_config")
        places = (self._generation, self._model, inner if isinstance(inner, dict) else {})
        for place in places:
            found = place.get("eos_token_id")
            ids = found if isinstance(found, list) else [found]
            if ids and all(type(token) is int and token >= 0 for token in ids):
                return tuple(dict.fromkeys(ids))
        named = self.named(self.specials.get("eos_token", ""))
        return () if named is None else (named,)

    @cached_property
    def context(self) -> int:
        """How many positions the model was made for; 0 if its files do not say."""
        inner = self._model.get("text_config")
        for place in (self._model, inner if isinstance(inner, dict) else {}):
            found = place.get("max_position_embeddings")
            if type(found) is int and found > 0:
                return found
        return 0


def _object(content: bytes, name: str) -> dict[str, Any]:
    if not content:
        return {}
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read: {str(error)[:200]}") from error


def _kind(tokenizer: bytes) -> str:
    """The kind of the decoder; a sequence of one is that one."""
    decoder = _object(tokenizer, "tokenizer.json").get("decoder")
    steps = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    kinds = [str(step.get("type")) for step in steps if isinstance(step, dict) and step.get("type") != "Fuse"]
    return kinds[0] if len(kinds) == 1 else ""


def _content(token: object) -> str:
    """A special token's text: a string, or an object that holds it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""


def _template(content: bytes, config: dict[str, Any]) -> str:
    """The chat template: its own file, else the tokenizer's configuration; of several the one named default."""
    found: Any = config.get("chat_template")
    if content:
        found = _object(content, "the template").get("chat_template") if _is_json(content) else content.decode()
    if isinstance(found, list):
        named = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
        found = named.get("default")
    template = found if isinstance(found, str) else ""
    if len(template) > TEMPLATE_CHARS_MAX:
        raise ValueError(f"the chat template is longer than {TEMPLATE_CHARS_MAX} characters")
    return template


def _is_json(content: bytes) -> bool:
    """Whether a template's file is JSON around it; Jinja begins with a brace too."""
    try:
        return isinstance(msgspec.json.decode(content), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _alphabet() -> dict[str, int]:
    """The letters that stand for the 256 bytes in byte-level vocabularies: printable ones for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _alphabet()


def _bytes_of_letters(piece: str) -> bytes:
    """A piece of a byte-level vocabulary; one with other letters in it (an added token) is plain text."""
    try:
        return bytes([_BYTE_OF[letter] for letter in piece])
    except KeyError:
        return piece.encode()


class LibraryDetokenizer:
    """For all other vocabularies: the library's own stream. It waits for ever for bytes that never become a character;
    after some tokens they are shown as they decode."""

    rest = b""
    rendered: Mapping[int, bytes | None] = Never()

    def __init__(self, library: Any, before: Sequence[int], skip_special: bool) -> None:
        self._library = library
        self._skip = skip_special
        self._before = list(before[-CONTEXT_TOKENS:])
        self._waiting: list[int] = []
        self._stream = self._fresh()

    def _fresh(self) -> Any:
        make: Callable[..., Any] = DecodeStream
        return make(ids=self._before or None, skip_special_tokens=self._skip)

    @property
    def pending(self) -> bool:
        return bool(self._waiting)

    def feed(self, tokens: Sequence[int]) -> str:
        return "".join(self.each(tokens))

    def each(self, tokens: Sequence[int]) -> list[str]:
        return [self._one(token) for token in tokens]

    def _one(self, token: int) -> str:
        self._waiting.append(token)
        text: str | None = self._stream.step(self._library, token)
        if text is not None:
            self._before = [*self._before, *self._waiting][-CONTEXT_TOKENS:]
            self._waiting.clear()
            return text
        if not self._rest().endswith(REPLACEMENT):  # A token without text: nothing waits.
            self._before = [*self._before, *self._waiting][-CONTEXT_TOKENS:]
            self._waiting.clear()
        return self.finish() if len(self._waiting) >= STUCK_TOKENS_MAX else ""

    def _rest(self) -> str:
        """What the waiting tokens decode to, after those before them."""
        before = self._library.decode(self._before, skip_special_tokens=self._skip)
        whole: str = self._library.decode([*self._before, *self._waiting], skip_special_tokens=self._skip)
        return whole[len(before) :]

    def finish(self) -> str:
        if not self._waiting:
            return ""
        text = self._rest()
        self._waiting.clear()
        self._stream = self._fresh()  # It follows what was complete: bytes that are no UTF-8 are no context.
        return text
