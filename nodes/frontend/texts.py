"""Shell. What a frontend needs of a model: its tokenizer and its chat template, and prompts made with them."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from nodes.contract.media import Spot
from nodes.frontend import limits
from nodes.openai import errors
from nodes.openai.demand import Chat, Demand, Tokenization
from nodes.openai.errors import Problem, invalid
from nodes.text.placeholders import Misplaced, Size, expanded, written
from nodes.text.template import ChatTemplate, TemplateProblem
from nodes.text.tokenizer import ModelFiles, Tokenizer, digest


class Text(Struct, frozen=True):
    """Everything that was built of a model's files."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    template_problem: str  # why there is none
    silent: frozenset[int]  # end-of-sequence tokens that are shown as text unless somebody prevents it


def build(contents: dict[str, bytes], name: str) -> Text:
    """The texts of a model's files, which must have the digest `name`. Raises ValueError with a sentence."""
    files = ModelFiles(**contents)
    if digest(files) != name:
        raise ValueError("what came is not what the card says")
    tokenizer = Tokenizer(files)
    tokenizer.least("")  # what is slow the first time is done here, in a thread
    template, problem = None, "The model has no chat template: use /v1/completions."
    if tokenizer.template:
        try:
            template = ChatTemplate(tokenizer.template, tokenizer.specials)
        except ValueError as error:
            problem = f"The model cannot chat: {error}."
    silent = frozenset(token for token in tokenizer.eos_tokens if not tokenizer.is_special(token))
    return Text(tokenizer, template, problem, silent)


def prompts_of(demand: Demand, text: Text, context: int) -> list[Sequence[int]] | Problem:
    """The tokens of all prompts of a request. It may take long for a long text: then call it in a thread."""
    prompts = demand.prompts
    if demand.chat is not None:
        found = rendered(demand.chat, text)
        if isinstance(found, Problem):
            return found
        prompts = [found]
    found_tokens: list[Sequence[int]] = []
    for prompt in prompts:
        tokens = text.tokenizer.at_most(prompt, context, demand.add_special) if isinstance(prompt, str) else prompt
        if isinstance(tokens, int):
            return errors.far_too_long(tokens, context, "messages" if demand.chat is not None else "prompt")
        found_tokens.append(tokens)
    return found_tokens


def prompt_with_media(
    demand: Demand | Tokenization, text: Text, context: int, sizes: Sequence[Size], ids: Mapping[str, int]
) -> tuple[list[int], tuple[Spot, ...]] | Problem:
    """The tokens of a conversation that holds more than text, with room for every row; and where that is.

    `ids`: the placeholder of each kind.
    """
    chat = demand.chat
    assert chat is not None
    if text.template is None:
        return invalid(text.template_problem, "messages", "no_chat_template")
    template = text.template
    marks = {kind: text.tokenizer.decode([token], skip_special=False) for kind, token in ids.items()}

    def render(messages: Sequence[dict[str, Any]]) -> str:
        return template.render(messages, chat.tools, chat.arguments, chat.open_answer, chat.continue_last)

    try:
        prompt = written(chat.messages, chat.clips, marks, render, TemplateProblem)
        tokens = text.tokenizer.at_most(prompt, context, demand.add_special)
        found = tokens if isinstance(tokens, int) else expanded(tokens, sizes, ids, context)
    except TemplateProblem as problem:
        return invalid(str(problem), "messages", "chat_template_error")
    except Misplaced as misplaced:
        return invalid(str(misplaced), "messages", "misplaced_media")
    return errors.far_too_long(found, context, "messages") if isinstance(found, int) else found


def rendered(chat: Chat, text: Text) -> str | Problem:
    """A conversation as the model reads it."""
    if chat.clips:
        return invalid("Only chat completions take more than text.", chat.clips[0].place, "unsupported_content")
    if text.template is None:
        return invalid(text.template_problem, "messages", "no_chat_template")
    try:
        return text.template.render(chat.messages, chat.tools, chat.arguments, chat.open_answer, chat.continue_last)
    except TemplateProblem as problem:
        return invalid(str(problem), "messages", "chat_template_error")


def tokens_of(asked: Tokenization, text: Text) -> list[int] | Problem:
    """The tokens of a `/tokenize` request."""
    found = asked.prompt if asked.chat is None else rendered(asked.chat, text)
    if isinstance(found, Problem):
        return found
    tokens = text.tokenizer.at_most(found, limits.SPELLED_TOKENS_MAX, asked.add_special)
    if isinstance(tokens, int):
        message = f"This text has more than {limits.SPELLED_TOKENS_MAX} tokens: send it in pieces."
        return invalid(message, "prompt" if asked.chat is None else "messages", "text_too_long")
    return [*tokens]
