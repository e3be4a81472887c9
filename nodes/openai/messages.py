"""Pure. Messages and tools, checked and made into what a chat template expects.

Templates are written against plain dictionaries: absent rather than null, text rather than parts, arguments rather than
JSON in a string. Fields that we do not know reach the template as they came. Only a message with a picture, a sound or
a clip keeps its parts, with `{"type": "image"}` and the like for what is not text; what they hold goes apart.
"""

from typing import Any

import msgspec

from nodes.contract.media import AUDIO, IMAGE, PARTS_MAX, VIDEO
from nodes.media.content import Clip
from nodes.openai import limits
from nodes.openai.errors import invalid
from nodes.openai.reading import Bad, Held, anything, convert, slight, weigh
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
    if not slight(raw):
        weigh(found, "messages")
    convert(found, _Messages, "messages")
    return [plain(message, index) for index, message in enumerate(found)]


# By type: the kind, and where the source is.
_MEDIA: dict[str, tuple[str, str]] = {
    "image_url": (IMAGE, "url"),
    "image_embeds": (IMAGE, ""),
    "input_audio": (AUDIO, "data"),
    "audio_url": (AUDIO, "url"),
    "video_url": (VIDEO, "url"),
}


def clips_of(messages: list[Plain]) -> tuple[Clip, ...]:
    """Take what the parts of messages hold out of them, in order."""
    clips: list[Clip] = []
    for number, message in enumerate(messages):
        content = message["content"]
        for index, part in enumerate(content) if isinstance(content, list) else ():
            if part["type"] in _MEDIA:
                clips.append(clip_of(part, f"messages[{number}].content[{index}].{part['type']}"))
                content[index] = {"type": clips[-1].kind}
            else:
                content[index] = {"type": "text", "text": part.get("text") or part.get("refusal") or ""}
    if len(clips) > PARTS_MAX:
        message_text = f"More than {PARTS_MAX} pictures, sounds and clips in one request."
        raise Bad(invalid(message_text, clips[PARTS_MAX].place, "too_many_values"))
    return tuple(clips)


def clip_of(part: Plain, place: str) -> Clip:
    """One part, checked by the schema before."""
    word = part["type"]
    kind, inner = _MEDIA[word]
    held = part[word]
    source = held if isinstance(held, str) else held[inner]
    return Clip(kind, place, word, source, embeds=not inner)


def plain(message: Plain, index: int) -> Plain:
    """One message as templates like it."""
    made = {name: value for name, value in message.items() if value is not None}
    if made["role"] == "developer":  # OpenAI's newer word for it, which few templates know
        made["role"] = "system"
    content = message.get("content")
    made["content"] = list(content or ()) if holds_media(content) else text_of(content)
    if message.get("tool_calls"):
        made["tool_calls"] = [called(call, f"messages[{index}].tool_calls") for call in message["tool_calls"]]
    else:
        made.pop("tool_calls", None)
    return made


def holds_media(content: Any) -> bool:
    """Whether there is more than text in it."""
    return isinstance(content, list) and any(part["type"] in _MEDIA for part in content)


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
