"""Pure. Messages and tools, checked and made into what a chat template expects.

Templates are written against plain dictionaries: absent rather than null, text rather than parts, arguments rather than
JSON in a string. Fields that we do not know reach the template as they came.
"""

from typing import Any

import msgspec

from nodes.openai import limits
from nodes.openai.errors import invalid
from nodes.openai.reading import Bad, Held, anything, convert, weigh
from nodes.openai.schema import Message, Tool

Plain = dict[str, Any]
_Messages = Held[list[Message]]
_Tools = Held[list[Tool]]


def messages_of(raw: msgspec.Raw) -> list[Plain]:
    """The messages of a request, ready for the template."""
    found = anything(raw, "messages")
    if not isinstance(found, list):
        raise Bad(invalid("Expected `array` for `messages`.", "messages", "invalid_value"))
    if not 1 <= len(found) <= limits.MESSAGES_MAX:
        raise Bad(invalid(f"`messages` must hold 1 to {limits.MESSAGES_MAX} messages.", "messages", "invalid_value"))
    weigh(found, "messages")
    convert(found, _Messages, "messages")
    return [plain(message, index) for index, message in enumerate(found)]


def plain(message: Plain, index: int) -> Plain:
    """One message as templates like it."""
    made = {name: value for name, value in message.items() if value is not None}
    if made["role"] == "developer":  # OpenAI's newer word for it, which few templates know
        made["role"] = "system"
    made["content"] = text_of(message.get("content"))
    if message.get("tool_calls"):
        made["tool_calls"] = [called(call, f"messages[{index}].tool_calls") for call in message["tool_calls"]]
    else:
        made.pop("tool_calls", None)
    return made


def text_of(content: str | list[Plain] | None) -> str:
    """The text of a message; parts stand on lines of their own."""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or part.get("refusal") or "" for part in content or ())


def called(call: Plain, place: str) -> Plain:
    """A tool call with its arguments as an object; what is no object stays the text that it is."""
    function = dict(call["function"])
    try:
        arguments = msgspec.json.decode(function.get("arguments") or "{}")
    except (msgspec.DecodeError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        weigh(arguments, place)
        function["arguments"] = arguments
    return {**call, "function": function}


def tools_of(raw: msgspec.Raw | None) -> list[Plain]:
    """The tools of a request as they came, checked."""
    if raw is None or bytes(raw) == b"null":
        return []
    if len(bytes(raw)) > limits.TOOLS_BYTES_MAX:
        raise Bad(invalid(f"`tools` holds more than {limits.TOOLS_BYTES_MAX} bytes.", "tools"))
    found: list[Plain] = anything(raw, "tools")
    weigh(found, "tools")
    convert(found, _Tools, "tools")
    return found
