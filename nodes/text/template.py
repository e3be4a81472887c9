"""Shell. A model's chat template: messages to the text that the model continues. The sandbox does what is dangerous."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from operator import add
from typing import Any

from jinja2 import Template
from jinja2.exceptions import TemplateError

from nodes.text.budget import Budget, Exhausted, weight
from nodes.text.sandbox import BUDGET, Sandbox

REASON_CHARS_MAX = 300


class TemplateProblem(Exception):
    """The messages cannot be rendered, with a sentence for the client."""


class Refused(TemplateError):
    """The template itself said no: `raise_exception`."""


class ChatTemplate:
    """A compiled template. Raises ValueError with one clear sentence if it is no good.

    `now` is the wall clock as the template shows it; `clock` the processor time that renderings may use.
    """

    def __init__(
        self,
        source: str,
        specials: dict[str, str],
        now: Callable[[], datetime] = datetime.now,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._specials = specials
        self._weight = weight(specials)
        self._now = now
        self._clock = clock
        self._sandbox = Sandbox()
        self._sandbox.globals |= {"raise_exception": raise_exception, "strftime_now": self._strftime()}
        try:
            code = self._sandbox.compile(self._sandbox.prepared(source))
            self._template = Template.from_code(self._sandbox, code, self._sandbox.globals)
        except TemplateError as error:
            raise ValueError(f"the chat template cannot be compiled: {str(error)[:REASON_CHARS_MAX]}") from error
        except (RecursionError, SyntaxError, MemoryError, OverflowError) as error:
            raise ValueError("the chat template cannot be compiled: it is nested too deeply") from error

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        arguments: dict[str, Any] | None = None,
        open_answer: bool = True,
        continue_last: bool = False,
    ) -> str:
        """The text of a conversation; raises TemplateProblem and nothing else."""
        variables = {
            **(arguments or {}),
            "messages": list(messages),
            "tools": list(tools) or None,
            "documents": None,
            "add_generation_prompt": open_answer and not continue_last,
        }
        text = self._run(variables)
        return shortened(text, messages[-1].get("content")) if continue_last else text

    def _run(self, variables: dict[str, Any]) -> str:
        values, chars = map(add, self._weight, weight(variables))
        budget = Budget(self._clock, values, chars)
        context = self._template.new_context({**self._specials, **variables, BUDGET: budget})
        try:
            return "".join(self._template.root_render_func(context))
        except Refused as error:
            raise TemplateProblem(str(error)[:REASON_CHARS_MAX]) from error
        except Exhausted as error:
            raise TemplateProblem(f"The model's chat template was stopped: {error}.") from error
        except Exception as error:  # It is a program of somebody else's, and may fail in any way.
            raise TemplateProblem(f"The model's chat template fails on these messages: {kind(error)}.") from error

    def _strftime(self) -> Callable[[str], str]:
        def strftime_now(pattern: str) -> str:
            return self._now().strftime(pattern[:100])

        strftime_now.offered = True  # type: ignore[attr-defined]
        return strftime_now


def raise_exception(message: object = "") -> None:
    """What templates call when messages do not suit them."""
    raise Refused(message if isinstance(message, str) else "The messages do not suit the chat template.")


raise_exception.offered = True  # type: ignore[attr-defined]


def kind(error: Exception) -> str:
    """An error in words that hold nothing of the messages: Jinja's own are about the template."""
    return str(error)[:REASON_CHARS_MAX] if isinstance(error, TemplateError) else type(error).__name__


def shortened(text: str, content: object) -> str:
    """The text up to the end of the last message, so that the model goes on with it."""
    last = content.strip() if isinstance(content, str) else ""
    found = text.rfind(last) if last else -1
    if found < 0:
        raise TemplateProblem("The last message cannot be continued: the chat template does not show it as it is.")
    return text[: found + len(last)]
