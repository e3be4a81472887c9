"""Pure. Parameters that clients know and that we cannot serve: a 400 names each, unless its value asks for nothing.

What is in neither this table nor `schema` is unknown: it is passed on with the request, byte for byte.
"""

NOTHING = (b"null", b"false", b"[]", b"{}", b'""')

_BOTH = (
    *("prompt_logprobs", "truncate_prompt_tokens", "bad_words", "allowed_token_ids", "logits_processors"),
    *("use_beam_search", "early_stopping", "return_token_ids", "prompt_embeds", "structural_tag"),
    "guided_whitespace_pattern",
    *("max_thinking_tokens", "chat_template", "mm_processor_kwargs", "media_io_kwargs", "documents"),
    *("store", "moderation", "prediction", "audio", "web_search_options", "functions", "function_call"),
    *("length_penalty", "spaces_between_special_tokens", "detokenize"),
    *("prompt_cache_retention", "prompt_cache_options"),
)
CHAT = (*_BOTH, "echo", "prompt", "suffix")
COMPLETION = (
    *_BOTH,
    *("suffix", "messages", "tools", "tool_choice", "top_logprobs", "max_completion_tokens"),
)
EMBEDDINGS = ("truncate_prompt_tokens", "prompt", "messages", "stream", "stream_options", "embed_dtype", "endianness")
TOKENIZE = ("chat_template", "mm_processor_kwargs")

# Values that mean what we do anyway.
ALLOWED: dict[str, tuple[bytes, ...]] = {
    "length_penalty": (b"1", b"1.0"),
    "spaces_between_special_tokens": (b"true",),
    "detokenize": (b"true",),
    "function_call": (b'"none"',),
    "prompt_cache_retention": (b'"in_memory"', b'"in-memory"'),
    "tool_choice": (b'"none"', b'"auto"'),
}
ELSEWHERE = {"prompt": "/v1/completions", "messages": "/v1/chat/completions"}  # where they belong
STRICT = ("detokenize", "spaces_between_special_tokens")  # here false asks for something


def refused(name: str, value: bytes) -> bool:
    """Whether this value of a refused parameter asks for what we cannot do."""
    if name in STRICT and value == b"false":
        return True
    return value not in NOTHING and value not in ALLOWED.get(name, ())
