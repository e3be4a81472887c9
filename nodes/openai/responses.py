"""Pure. Whole answers: the structs of everything that is not streamed, in OpenAI's order and with its names."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Struct, UnsetType

from nodes.contract.engine import Ending
from nodes.openai.demand import Demand, Kind
from nodes.openai.logprobs import ChatLogprobs, CompletionLogprobs, chat_logprobs, completion_logprobs
from nodes.text.stream import Entry

OWNER = "wiremesh"
ROLE = "assistant"


class PromptDetails(Struct, frozen=True):
    cached_tokens: int = 0


class CompletionDetails(Struct, frozen=True):
    reasoning_tokens: int = 0


class Moved(Struct, frozen=True):
    """Where a stream went on at another worker: whose numbers are as fine, goes on as it would have."""

    choice: int
    position: int  # tokens that there were before


class Extension(Struct, frozen=True):
    """What only we tell, and only if it happened."""

    migrated_at: list[Moved]


class Usage(Struct):
    """Tokens that were read and written; all candidates of all prompts together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()
    completion_tokens_details: CompletionDetails = CompletionDetails()
    wiremesh: Extension | UnsetType = UNSET


class AssistantMessage(Struct):
    role: str
    content: str | None
    refusal: str | None = None


class ChatChoice(Struct):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(Struct):
    """The answer of `/v1/chat/completions`."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    service_tier: str | None = None
    system_fingerprint: str | None = None


class CompletionChoice(Struct):
    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: str


class Completion(Struct):
    """The answer of `/v1/completions`."""

    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str | None = None


class Model(Struct):
    """A model that is served here."""

    id: str
    created: int
    max_model_len: int | None = None
    object: str = "model"
    owned_by: str = OWNER


class ModelList(Struct):
    data: list[Model]
    object: str = "list"


class Tokenized(Struct):
    """The answer of `/tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Detokenized(Struct):
    """The answer of `/detokenize`."""

    prompt: str


class Answer(Struct, frozen=True):
    """What stays the same in everything that one request is answered with."""

    id: str  # with its prefix, see `answer_id`
    created: int  # seconds since 1970
    demand: Demand
    fingerprint: str | None = None


class Outcome(Struct):
    """One finished choice."""

    index: int
    text: str
    reason: str  # see `finish_reason`
    entries: Sequence[Entry] = ()


def answer_id(kind: Kind, request: str) -> str:
    """A request's id as OpenAI writes it."""
    return f"{'chatcmpl' if kind is Kind.CHAT else 'cmpl'}-{request}"


def finish_reason(ending: Ending | None, stopped: bool) -> str:
    """Why a choice ended, in OpenAI's words; a stop string counts first, for it cut the text."""
    return "length" if ending is Ending.LENGTH and not stopped else "stop"


def usage_of(
    prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0, moved: Sequence[tuple[int, int]] = ()
) -> Usage:
    """The usage of a request; a migrated one counts its own prompt, not what was recomputed."""
    total = prompt_tokens + completion_tokens
    usage = Usage(prompt_tokens, completion_tokens, total, PromptDetails(min(cached_tokens, prompt_tokens)))
    if moved:
        usage.wiremesh = Extension([Moved(*one) for one in moved])
    return usage


def whole(answer: Answer, outcomes: Sequence[Outcome], usage: Usage) -> bytes:
    """The answer to a request that is not streamed."""
    demand = answer.demand
    made = chat_answer(answer, outcomes, usage) if demand.chat else completion_answer(answer, outcomes, usage)
    return msgspec.json.encode(made)


def chat_answer(answer: Answer, outcomes: Sequence[Outcome], usage: Usage) -> ChatCompletion:
    demand = answer.demand
    choices = [
        ChatChoice(
            outcome.index,
            AssistantMessage(ROLE, outcome.text),
            chat_logprobs(outcome.entries, demand.numbered) if demand.logprobs >= 0 else None,
            outcome.reason,
        )
        for outcome in outcomes
    ]
    named = (answer.id, "chat.completion", answer.created, demand.model)
    return ChatCompletion(*named, choices, usage, demand.service_tier, answer.fingerprint)


def completion_answer(answer: Answer, outcomes: Sequence[Outcome], usage: Usage) -> Completion:
    demand = answer.demand
    choices = [
        CompletionChoice(
            outcome.text,
            outcome.index,
            completion_logprobs(outcome.entries, demand.logprobs, demand.numbered) if demand.logprobs >= 0 else None,
            outcome.reason,
        )
        for outcome in outcomes
    ]
    named = (answer.id, "text_completion", answer.created, demand.model)
    return Completion(*named, choices, usage, answer.fingerprint)
