"""Pure. Bodies to demands: `parse` is all that an endpoint needs. Rules that concern several fields live here."""

from collections.abc import Callable
from typing import Any

from nodes.contract.engine import Sampling
from nodes.openai import limits, refusals
from nodes.openai.demand import TIER_PRIORITY, Chat, Demand, Detokenization, Embeddings, Kind, Tokenization
from nodes.openai.errors import Problem, invalid
from nodes.openai.guides import guide_of
from nodes.openai.messages import clips_of, messages_of, tools_of
from nodes.openai.reading import Bad, Fields, Held, Reader, anything, convert, fields_of
from nodes.openai.schema import (
    ChatOptions,
    Common,
    CompletionOptions,
    DetokenizeOptions,
    EmbeddingsOptions,
    TokenIds,
    TokenizeOptions,
)

_CHAT = Reader(ChatOptions, ("messages", "tools"), refusals.CHAT)
_COMPLETION = Reader(CompletionOptions, ("prompt",), refusals.COMPLETION)
_EMBEDDINGS = Reader(EmbeddingsOptions, ("input",), refusals.EMBEDDINGS)
_TOKENIZE = Reader(TokenizeOptions, ("prompt", "messages", "tools"), refusals.TOKENIZE)
_DETOKENIZE = Reader(DetokenizeOptions, ("tokens",), ())

Parsed = Demand | Embeddings | Tokenization | Detokenization


def parse(kind: Kind, body: bytes, bytes_max: int = limits.BODY_BYTES_MAX) -> Parsed | Problem:
    """What a body asks for, or why not. Never raises."""
    try:
        return _PARSERS[kind](body, fields_of(body, bytes_max))
    except Bad as bad:
        return bad.problem


def _chat(body: bytes, fields: Fields) -> Demand:
    options, extra = _CHAT.read(body, fields)
    arguments = {**(options.chat_template_kwargs or {})}
    for name, value in (("reasoning_effort", options.reasoning_effort), ("verbosity", options.verbosity)):
        if value is not None:
            arguments[name] = value
    if options.top_logprobs and not options.logprobs:
        raise Bad(invalid("`top_logprobs` needs `logprobs` to be true.", "top_logprobs", "invalid_value"))
    tools = tools_of(fields.get("tools"))
    chat = conversation(fields, options, [] if options.tool_choice == "none" else tools, arguments)
    logprobs = (options.top_logprobs or 0) if options.logprobs else -1
    max_tokens = options.max_completion_tokens or options.max_tokens
    details = {"chat": chat, "max_tokens": max_tokens, "add_special": bool(options.add_special_tokens)}
    return demanded(Kind.CHAT, options, logprobs, 1, {**details, "extra": extra})


def conversation(
    fields: Fields, options: ChatOptions | TokenizeOptions, tools: list[dict[str, Any]], arguments: dict[str, Any]
) -> Chat:
    """What goes into the template."""
    if "messages" not in fields:
        raise Bad(invalid("Missing required parameter: `messages`.", "messages", "missing_required_parameter"))
    messages = messages_of(fields["messages"])
    continued = bool(options.continue_final_message)
    if continued and options.add_generation_prompt:
        place = "continue_final_message"
        raise Bad(invalid(f"`{place}` and `add_generation_prompt` exclude each other.", place, "invalid_value"))
    opened = options.add_generation_prompt is not False and not continued
    return Chat(messages, tools, arguments, opened, continued, clips_of(messages))


def _completion(body: bytes, fields: Fields) -> Demand:
    options, extra = _COMPLETION.read(body, fields)
    if "prompt" not in fields:
        raise Bad(invalid("Missing required parameter: `prompt`.", "prompt", "missing_required_parameter"))
    if options.echo and options.logprobs is not None:
        reason = "`logprobs` with `echo` asks for the prompt's log-probabilities, which no engine here computes."
        raise Bad(invalid(reason, "logprobs", "unsupported_parameter"))
    prompts = prompts_of(anything(fields["prompt"], "prompt"))
    logprobs = -1 if options.logprobs is None else options.logprobs
    details = {
        "prompts": prompts,
        "echo": bool(options.echo),
        "max_tokens": options.max_tokens,
        "add_special": options.add_special_tokens is not False,
    }
    return demanded(Kind.COMPLETION, options, logprobs, len(prompts), {**details, "extra": extra})


def prompts_of(found: Any, name: str = "prompt", count_max: int = limits.PROMPTS_MAX) -> list[str | list[int]]:
    """The four forms of a prompt, as a list of texts or token ids."""
    if isinstance(found, str):
        return [found]
    if not isinstance(found, list) or not found:
        raise Bad(invalid(f"`{name}` must be a text, token ids, or a list of either.", name, "invalid_value"))
    if isinstance(found[0], int):
        return [convert(found, Held[TokenIds], name)]
    if len(found) > count_max:
        raise Bad(invalid(f"`{name}` holds more than {count_max} of them.", name, "invalid_value"))
    prompts: list[str | list[int]] = convert(found, Held[list[str | TokenIds]], name)
    return prompts


def demanded(kind: Kind, options: Common, logprobs: int, prompts: int, details: dict[str, Any]) -> Demand:
    """What the two endpoints share."""
    choices = options.n or 1
    candidates = options.best_of or choices
    stream = bool(options.stream)
    check(options, choices, candidates, prompts)
    chosen = options.stream_options
    guide, guide_param = guide_of(options)
    return Demand(
        kind=kind,
        model=options.model,
        sampling=_sampling(options, max(logprobs, 0) if candidates > choices else logprobs),
        seed=options.seed,
        choices=choices,
        candidates=candidates,
        min_tokens=options.min_tokens or 0,
        stops=stops_of(options.stop),
        stop_tokens=tuple(options.stop_token_ids or ()),
        ignore_eos=bool(options.ignore_eos),
        include_stop=bool(options.include_stop_str_in_output),
        skip_special=options.skip_special_tokens is not False,
        logprobs=logprobs,
        numbered=bool(options.return_tokens_as_token_ids),
        stream=stream,
        usage=bool(chosen and chosen.include_usage),
        running_usage=bool(chosen and chosen.include_usage and chosen.continuous_usage_stats),
        priority=TIER_PRIORITY.get(options.service_tier or "", 0) if options.priority is None else options.priority,
        service_tier=options.service_tier,
        user=options.user or options.safety_identifier or "",
        cache_key=options.prompt_cache_key or "",
        cache_salt=options.cache_salt or "",
        metadata=options.metadata or {},
        guide=guide,
        guide_param=guide_param,
        **details,
    )


def check(options: Common, choices: int, candidates: int, prompts: int) -> None:
    """Rules between fields."""
    if options.stream_options is not None and not options.stream:
        raise Bad(invalid("`stream_options` is only allowed with `stream`.", "stream_options", "invalid_value"))
    if candidates < choices:
        raise Bad(invalid("`best_of` must not be less than `n`.", "best_of", "invalid_value"))
    if candidates > choices and options.stream:
        raise Bad(invalid("`best_of` cannot be streamed: the best is known at the end.", "best_of", "invalid_value"))
    if candidates * prompts > limits.SEQUENCES_MAX:
        place = "best_of" if options.best_of else "n"
        raise Bad(invalid(f"More than {limits.SEQUENCES_MAX} sequences in one request.", place, "invalid_value"))


def _sampling(options: Common, logprobs: int) -> Sampling:
    return Sampling(
        temperature=1.0 if options.temperature is None else options.temperature,
        top_p=1.0 if options.top_p is None else options.top_p,
        top_k=max(options.top_k or 0, 0),  # -1 is vLLM's word for all
        min_p=options.min_p or 0.0,
        repetition_penalty=options.repetition_penalty or 1.0,
        frequency_penalty=options.frequency_penalty or 0.0,
        presence_penalty=options.presence_penalty or 0.0,
        logit_bias=options.logit_bias or {},
        logprobs=logprobs,
    )


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    """The stop strings, each within its limit in bytes."""
    stops = (stop,) if isinstance(stop, str) else tuple(dict.fromkeys(stop or ()))
    if any(len(text.encode()) > limits.STOP_BYTES_MAX for text in stops):
        reason = f"A stop string is longer than {limits.STOP_BYTES_MAX} bytes."
        raise Bad(invalid(reason, "stop", "invalid_value"))
    return stops


def _embeddings(body: bytes, fields: Fields) -> Embeddings:
    options, extra = _EMBEDDINGS.read(body, fields)
    if "input" not in fields:
        raise Bad(invalid("Missing required parameter: `input`.", "input", "missing_required_parameter"))
    demand = Demand(
        kind=Kind.EMBEDDING,
        model=options.model,
        prompts=prompts_of(anything(fields["input"], "input"), "input", limits.INPUTS_MAX),
        add_special=options.add_special_tokens is not False,
        priority=options.priority or 0,
        user=options.user or "",
        extra=extra,
    )
    return Embeddings(demand, options.encoding_format or "float", options.dimensions or 0)


def _tokenize(body: bytes, fields: Fields) -> Tokenization:
    options, _ = _TOKENIZE.read(body, fields)
    model = options.model or ""
    show = bool(options.return_token_strs)
    if "messages" in fields:
        tools = tools_of(fields.get("tools"))
        chat = conversation(fields, options, tools, {**(options.chat_template_kwargs or {})})
        special = bool(options.add_special_tokens)
        return Tokenization(model=model, chat=chat, add_special=special, show_tokens=show)
    if "prompt" not in fields:
        raise Bad(invalid("Missing required parameter: `prompt`.", "prompt", "missing_required_parameter"))
    prompt = convert(anything(fields["prompt"], "prompt"), Held[str], "prompt")
    special = options.add_special_tokens is not False
    return Tokenization(model=model, prompt=prompt, add_special=special, show_tokens=show)


def _detokenize(body: bytes, fields: Fields) -> Detokenization:
    options, _ = _DETOKENIZE.read(body, fields)
    if "tokens" not in fields:
        raise Bad(invalid("Missing required parameter: `tokens`.", "tokens", "missing_required_parameter"))
    tokens = convert(anything(fields["tokens"], "tokens"), Held[TokenIds], "tokens")
    return Detokenization(model=options.model or "", tokens=tokens, skip_special=bool(options.skip_special_tokens))


_PARSERS: dict[Kind, Callable[[bytes, Fields], Parsed]] = {
    Kind.CHAT: _chat,
    Kind.COMPLETION: _completion,
    Kind.EMBEDDING: _embeddings,
    Kind.TOKENIZE: _tokenize,
    Kind.DETOKENIZE: _detokenize,
}
