"""Pure. In what workers of one model must agree, so that a request may run on any of them: what its tokens mean.

Engines, number formats and weights may differ, and so may the bytes of the files: a tokenizer that another version of a
library has written is the same tokenizer. Caches and embeddings are another matter: see `ModelCard.build`.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

TOKENIZER, TEMPLATE, ENDS, MEDIA = "tokenizer", "chat template", "end-of-sequence tokens", "pictures and sounds"
NAMES = {TOKENIZER: "another tokenizer", TEMPLATE: "another chat template", ENDS: "other end-of-sequence tokens"}
SILENT = ("version", "truncation", "padding")  # of a tokenizer's file: it does not use them here
OPTIONAL = (  # in its model: absent means the same as none, no, or empty
    *("ignore_merges", "byte_fallback", "fuse_unk", "dropout", "unk_token"),
    *("continuing_subword_prefix", "end_of_word_suffix"),
)


def marks_of(
    tokenizer: bytes,
    template: str,
    specials: Mapping[str, str],
    eos_tokens: Sequence[int],
    media: Mapping[str, object] | None = None,
) -> dict[str, str]:
    """A mark of each thing. `tokenizer` is the content of tokenizer.json, `media` what the engine's card says."""
    things: dict[str, Any] = {
        TOKENIZER: _plain(tokenizer),
        TEMPLATE: (template, specials if template else {}),
        ENDS: sorted(eos_tokens),
    }
    if media:
        things[MEDIA] = media
    return {name: _hash(msgspec.json.encode(thing, order="deterministic")) for name, thing in things.items()}


def digest_of(marks: Mapping[str, str]) -> str:
    """One name for all of them."""
    return _hash(msgspec.json.encode(marks, order="deterministic"))


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """In what two differ, in words."""
    names = [name for name in (TOKENIZER, TEMPLATE, ENDS, MEDIA) if one.get(name) != other.get(name)]
    shown = [NAMES.get(name, f"other {name}") for name in names] or ["other files"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)


def _plain(tokenizer: bytes) -> Any:
    """What a tokenizer's file says, however it was written."""
    found = msgspec.json.decode(tokenizer, type=dict[str, Any])
    model = found.get("model")
    if isinstance(model, dict):
        merges = model.get("merges")
        if isinstance(merges, list):  # older libraries write a pair as one text
            model["merges"] = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges]
        for name in OPTIONAL:
            if not model.get(name):
                model.pop(name, None)
    return {name: value for name, value in found.items() if name not in SILENT}


def _hash(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
