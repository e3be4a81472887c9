"""Pure. Log-probabilities in OpenAI's two shapes. A token that is no text of its own is shown by its bytes."""

from collections.abc import Sequence

from msgspec import Struct

from nodes.text.stream import Entry

LEAST = -9999.0  # JSON has no infinity


class Alternative(Struct):
    """A token that might have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Struct):
    """A token that was chosen."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Alternative]


class ChatLogprobs(Struct):
    """The shape of chat completions."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(Struct):
    """The shape of completions: four lists of one length."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


def chat_logprobs(entries: Sequence[Entry], numbered: bool = False) -> ChatLogprobs:
    """The log-probabilities of a chat's tokens."""
    return ChatLogprobs([_chosen(entry, numbered) for entry in entries])


def _chosen(entry: Entry, numbered: bool) -> TokenLogprob:
    top = [
        Alternative(shown(token, spelling, numbered), finite(logprob), list(spelling))
        for token, spelling, logprob in entry.top
    ]
    name = shown(entry.token, entry.spelling, numbered)
    return TokenLogprob(name, finite(entry.logprob or 0.0), list(entry.spelling), top)


def completion_logprobs(entries: Sequence[Entry], alternatives: int, numbered: bool = False) -> CompletionLogprobs:
    """The log-probabilities of a completion's tokens. The chosen one is always among the alternatives."""
    made = CompletionLogprobs([], [], [], [])
    for entry in entries:
        name = shown(entry.token, entry.spelling, numbered, "bytes:")
        chosen = None if entry.logprob is None else finite(entry.logprob)
        top = {
            shown(token, spelling, numbered, "bytes:"): finite(logprob)
            for token, spelling, logprob in entry.top[: max(alternatives, 0)]
        }
        made.text_offset.append(entry.offset)
        made.token_logprobs.append(chosen)
        made.tokens.append(name)
        made.top_logprobs.append(None if chosen is None else {**top, name: chosen})
    return made


def shown(token: int, spelling: bytes, numbered: bool, prefix: str = "") -> str:
    """A token as text; one that ends or begins within a character by its bytes, as OpenAI writes them."""
    if numbered:
        return f"token_id:{token}"
    try:
        return spelling.decode()
    except UnicodeDecodeError:
        return prefix + "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in spelling)


def finite(logprob: float) -> float:
    """A number that JSON can hold."""
    return logprob if logprob > LEAST else LEAST
