"""Pure. What a completion request demands of the mesh, free of HTTP, and what must hold once its tokens are counted."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct, structs

from nodes.contract.engine import Sampling
from nodes.contract.guide import Guide
from nodes.media.content import Clip
from nodes.openai.errors import Problem, invalid, too_long

COMPLETION_TOKENS = 16  # OpenAI's default for a completion; a chat may use all that is left
SEED_MASK = 2**63 - 1
FLEX_PRIORITY = 1  # lower is sooner
TIER_PRIORITY = {"priority": -FLEX_PRIORITY, "flex": FLEX_PRIORITY}


class Kind(StrEnum):
    """The endpoints that take a body."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"


class Chat(Struct, frozen=True):
    """What goes into the chat template."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = []
    arguments: dict[str, Any] = {}
    open_answer: bool = True  # end with the header of the assistant's answer
    continue_last: bool = False  # leave the last message open, to be continued
    clips: tuple[Clip, ...] = ()  # pictures, sounds and clips in the messages, in order


class Demand(Struct, frozen=True, kw_only=True):
    """A completion request, checked."""

    kind: Kind
    model: str
    prompts: Sequence[str | list[int]] = ()  # of completions; a chat has `chat` instead
    chat: Chat | None = None
    add_special: bool = True  # whether the tokenizer adds its own tokens at the start; a template writes them itself
    sampling: Sampling = Sampling()  # without its seed: see `sampling`
    seed: int | None = None
    choices: int = 1
    candidates: int = 1  # best_of: how many are generated for `choices` that are shown
    max_tokens: int | None = None
    min_tokens: int = 0
    stops: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False
    skip_special: bool = True
    echo: bool = False
    logprobs: int = -1  # to be shown: -1 none, 0 the chosen token's, else so many alternatives
    numbered: bool = False  # show tokens as `token_id:N` in log-probabilities
    stream: bool = False
    usage: bool = False  # in a chunk of its own
    running_usage: bool = False  # and in every chunk
    priority: int = 0
    service_tier: str | None = None
    user: str = ""
    cache_key: str = ""  # the client's hint which requests share a prefix
    cache_salt: str = ""
    metadata: dict[str, str] = {}
    guide: Guide | None = None  # what the answer must be
    guide_param: str = ""  # the parameter that says so
    extra: dict[str, msgspec.Raw] = {}  # unknown parameters, byte for byte


class Embeddings(Struct, frozen=True):
    """An embeddings request, checked. Its texts are the demand's prompts."""

    demand: Demand
    encoding: str = "float"  # or base64
    dimensions: int = 0  # 0: as many as the model has


class Tokenization(Struct, frozen=True, kw_only=True):
    """A tokenize request, checked: it has a prompt or a chat."""

    model: str = ""  # empty: the only one
    prompt: str = ""
    chat: Chat | None = None
    add_special: bool = True
    show_tokens: bool = False


class Detokenization(Struct, frozen=True, kw_only=True):
    """A detokenize request, checked."""

    model: str = ""
    tokens: list[int] = []
    skip_special: bool = False


def sampling(demand: Demand, prompt: int, candidate: int, entropy: int) -> Sampling:
    """How the tokens of one candidate of one prompt are drawn. `entropy` is this request's own random number.

    The same seed gives the same candidates, whatever else is in the batch; candidate 0 uses the seed as it is.
    """
    base = mixed(entropy, prompt) if demand.seed is None else demand.seed & SEED_MASK
    return structs.replace(demand.sampling, seed=mixed(base, candidate) if candidate else base)


def mixed(seed: int, index: int) -> int:
    """A number that looks unrelated for each index (SplitMix64's finish)."""
    value = (seed + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return (value ^ value >> 31) & SEED_MASK


def budget(demand: Demand, prompt_tokens: int, context: int) -> int | Problem:
    """How many tokens may be generated, or why this does not fit: said now, not at the context's end."""
    param = "messages" if demand.chat else "prompt"
    if prompt_tokens == 0:
        return invalid("The prompt holds no tokens.", param, "empty_prompt")
    left = context - prompt_tokens
    asked = demand.max_tokens
    if asked is None:
        asked = max(1, left if demand.chat else min(COMPLETION_TOKENS, left))
    if asked > left:
        return too_long(prompt_tokens + asked, prompt_tokens, context, param)
    if demand.min_tokens > asked:
        return invalid(f"`min_tokens` is more than the {asked} tokens that there is room for.", "min_tokens")
    return asked


def check_tokens(demand: Demand, vocabulary: int) -> Problem | None:
    """Whether every token id that the request names is one of the model's."""
    biased = demand.sampling.logit_bias
    for index, prompt in enumerate(demand.prompts):
        if not isinstance(prompt, str) and prompt and max(prompt) >= vocabulary:
            place = "prompt" if len(demand.prompts) == 1 else f"prompt[{index}]"
            return _outside(place, vocabulary)
    if biased and max(biased) >= vocabulary:
        return _outside("logit_bias", vocabulary)
    if demand.stop_tokens and max(demand.stop_tokens) >= vocabulary:
        return _outside("stop_token_ids", vocabulary)
    return None


def _outside(place: str, vocabulary: int) -> Problem:
    return invalid(f"`{place}` holds a token id beyond the model's {vocabulary} tokens.", place, "invalid_value")


def best(scores: Sequence[tuple[float, int]], choices: int) -> list[int]:
    """The candidates to show, best first: by mean log-probability. A score is (sum of log-probabilities, tokens)."""
    means = [total / tokens if tokens else -1e9 for total, tokens in scores]
    return sorted(range(len(scores)), key=lambda index: -means[index])[:choices]
