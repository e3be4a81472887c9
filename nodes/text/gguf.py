"""Pure. What a GGUF file says of its model's texts, as the files that a model's directory would have.

Such a file names its tokens, how they merge, and by a word how texts are cut before ("pre"). That word stands for rules
that are in llama.cpp's source, not in the file: of those that are not here nothing is guessed.
"""

from collections.abc import Mapping
from struct import Struct, error
from typing import Any

import msgspec

MAGIC = b"GGUF"
VERSIONS = (2, 3)
HEAD = Struct("<4sIQQ")
NUMBERS = {kind: Struct("<" + form) for kind, form in zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True)}
STRING, ARRAY = 8, 9
KIND, LENGTH = NUMBERS[4], NUMBERS[10]
VALUES_MAX = 65_536
ITEMS_MAX = 4 << 20  # the largest vocabularies have 260,000 tokens and twice as many merges
NORMAL, UNKNOWN, CONTROL, DEFINED, BYTE = 1, 2, 3, 4, 6  # kinds of tokens
ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<end_of_turn>", "</s>")
SPACE = "\u2581"
CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA = CONTRACTED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+" + REST
QWEN = CONTRACTED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+" + REST
QWEN35 = CONTRACTED + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+" + REST
DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")  # GPT-2's own, and each digit by itself
CUTS = {  # how texts are cut: a rule, or none for GPT-2's own
    **dict.fromkeys(("gpt-2", "phi-2"), ""),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "lfm2"), LLAMA),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), QWEN),
    "qwen35": QWEN35,
    **dict.fromkeys(DIGITS, ""),
}
BEGINS = (LLAMA,)  # a text begins with a token of its own, unless the file says otherwise


def read(content: Any) -> dict[str, Any]:
    """What the head of a file says, by name; `content` is the file's bytes. Raises ValueError."""
    try:
        magic, version, _, count = HEAD.unpack_from(content)
        if magic != MAGIC or version not in VERSIONS or count > VALUES_MAX:
            raise ValueError("it is no GGUF file of version 2 or 3")
        at, found = HEAD.size, {}
        for _ in range(count):
            name, at = _string(content, at)
            (kind,) = KIND.unpack_from(content, at)
            found[name], at = _value(content, kind, at + KIND.size)
        return found
    except (error, UnicodeDecodeError) as problem:
        raise ValueError(f"its head is damaged: {problem}") from None


def _value(content: Any, kind: int, at: int) -> tuple[Any, int]:
    if kind == STRING:
        return _string(content, at)
    if kind == ARRAY:
        (inner,), (count,) = KIND.unpack_from(content, at), LENGTH.unpack_from(content, at + KIND.size)
        at += KIND.size + LENGTH.size
        if count > ITEMS_MAX or inner == ARRAY:
            raise ValueError(f"it has a list of {count} things of kind {inner}")
        found = []
        for _ in range(count):
            one, at = _value(content, inner, at)
            found.append(one)
        return found, at
    if kind not in NUMBERS:
        raise ValueError(f"it has a value of kind {kind}, which is none")
    return NUMBERS[kind].unpack_from(content, at)[0], at + NUMBERS[kind].size


def _string(content: Any, at: int) -> tuple[str, int]:
    (length,) = LENGTH.unpack_from(content, at)
    start = at + LENGTH.size
    found = bytes(content[start : start + length])
    if len(found) != length:
        raise ValueError("its head ends too early")
    return found.decode(), start + length


def files_of(told: Mapping[str, Any]) -> dict[str, bytes]:
    """The fields of `nodes.text.tokenizer.ModelFiles`. Raises ValueError with a clause about the file."""
    words = {name.removeprefix("tokenizer.ggml."): value for name, value in told.items()}
    texts, model = words.get("tokens") or [], words.get("model")
    kinds = words.get("token_type") or [NORMAL] * len(texts)
    if not texts or len(kinds) != len(texts):
        raise ValueError("it names no tokens")
    if model == "gpt2":
        made = _bytes_merged(words, texts)
    elif model == "llama":
        made = _scores_merged(words, texts, kinds)
    else:
        raise ValueError(f"its tokenizer is of the kind {model!r}, of which only llama.cpp knows the rules")
    begin = _named(words, "bos")
    adds = words.get("add_bos_token", model == "llama" or CUTS.get(str(words.get("pre"))) in BEGINS)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [_added(token, texts[token], kind) for token, kind in enumerate(kinds) if _is_added(kind)],
        "post_processor": _beginning(texts[begin], begin) if adds and begin is not None else None,
        **made,
    }
    config = {f"{name}_token": texts[token] for name in ("bos", "eos") if (token := _named(words, name)) is not None}
    if isinstance(template := told.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    context = told.get(f"{told.get('general.architecture')}.context_length")
    files = {
        "tokenizer": tokenizer,
        "tokenizer_config": config,
        "generation_config": {"eos_token_id": _ends(words, texts, kinds)},
        "config": {"max_position_embeddings": context} if isinstance(context, int) else {},
    }
    return {name: msgspec.json.encode(value) for name, value in files.items()} | {"chat_template": b""}


def _bytes_merged(words: Mapping[str, Any], texts: list[str]) -> dict[str, Any]:
    """A tokenizer of bytes that merge by rank, as GPT-2's."""
    pre = str(words.get("pre"))
    if pre not in CUTS:
        raise ValueError(f"it cuts texts by the rule {pre!r}, which only llama.cpp knows")
    rule = CUTS[pre]
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not rule}
    first: list[dict[str, Any]] = []
    if rule:
        first = [{"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}]
    elif pre in DIGITS:
        first = [{"type": "Digits", "individual_digits": True}]
    return {
        "normalizer": {"type": "NFC"} if rule == QWEN else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*first, letters]} if first else letters,
        "decoder": {**letters, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {text: token for token, text in enumerate(texts)},
            "merges": [_halves(one) for one in words.get("merges") or ()],
            "ignore_merges": rule == LLAMA,
        },
    }


def _halves(merge: str) -> list[str]:
    """Two pieces, one of which may begin with a space."""
    left, _, right = merge[1:].partition(" ")
    return [merge[:1] + left, right]


def _scores_merged(words: Mapping[str, Any], texts: list[str], kinds: list[int]) -> dict[str, Any]:
    """A tokenizer of letters whose pieces merge by score, as SentencePiece's."""
    scores = words.get("scores") or []
    if len(scores) != len(texts):
        raise ValueError("its tokens have no scores")
    vocabulary = {text: token for token, text in enumerate(texts)}
    merges: list[tuple[float, int, int, int, int, str, str]] = []
    for token, text in enumerate(texts):
        for cut in range(1, len(text)) if kinds[token] == NORMAL else ():
            left, right = vocabulary.get(text[:cut]), vocabulary.get(text[cut:])
            if left is not None and right is not None:
                size = -cut, cut - len(text)
                merges.append((-scores[token], *size, left, right, text[:cut], text[cut:]))
    merges.sort()
    unknown = _named(words, "unknown")
    space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    begins = bool(words.get("add_space_prefix", True))
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    steps += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if begins:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    prepend = {"type": "Prepend", "prepend": SPACE}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [prepend, space]} if begins else space,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [[one[-2], one[-1]] for one in merges],
            "unk_token": None if unknown is None else texts[unknown],
            "fuse_unk": True,
            "byte_fallback": BYTE in kinds,
        },
    }


def _named(words: Mapping[str, Any], name: str) -> int | None:
    """A token that the file names for what it does."""
    found = words.get(f"{name}_token_id")
    return found if isinstance(found, int) and 0 <= found < len(words["tokens"]) else None


def _ends(words: Mapping[str, Any], texts: list[str], kinds: list[int]) -> list[int]:
    """Tokens that end a sequence: those that the file names, and those whose text says so, as llama.cpp has it."""
    named = [token for name in ("eos", "eot", "eom") if (token := _named(words, name)) is not None]
    known = [token for token, text in enumerate(texts) if text in ENDS and kinds[token] == CONTROL]
    return list(dict.fromkeys([*named, *known]))


def _is_added(kind: int) -> bool:
    return kind in (UNKNOWN, CONTROL, DEFINED)


def _added(token: int, text: str, kind: int) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, **plain, "special": kind != DEFINED}


def _beginning(text: str, token: int) -> dict[str, Any]:
    """Each text begins with a token."""
    begin, whole = {"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [begin, whole],
        "pair": [begin, whole, other],
        "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]}},
    }
