"""Pure. Where pictures, sounds and clips stand in a prompt: one placeholder each, and then as many as it has rows.

A template either writes a placeholder for each part that is not text, or it wants text alone: then the placeholder is
put into the text. Which of the two, is seen by trying.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from nodes.contract.media import Spot
from nodes.media.content import Clip

Plain = dict[str, Any]


class Misplaced(ValueError):
    """The parts and their placeholders do not fit together. The text says how."""


class Size(Struct, frozen=True):
    """A part, and how many rows it becomes."""

    kind: str
    rows: int
    content: bytes
    across: int = 0  # of them in a line, where they have lines


def written(
    messages: Sequence[Plain],
    clips: Sequence[Clip],
    marks: Mapping[str, str],
    render: Callable[[Sequence[Plain]], str],
    refusal: type[Exception],
) -> str:
    """The prompt's text, with one placeholder for each clip. Raises Misplaced, and the `refusal` of `render`."""
    for text in texts(messages):
        for mark in marks.values():
            if mark in text:
                raise Misplaced(f"The text holds {mark}, which stands for a picture, sound or clip to this model.")
    wanted = Counter(marks[clip.kind] for clip in clips)
    try:
        found = render(messages)
        if holds(found, wanted):
            return found
    except refusal:
        pass  # it wants text
    found = render([{**message, "content": flat(message["content"], marks)} for message in messages])
    if not holds(found, wanted):
        raise Misplaced("The model's chat template leaves pictures, sounds or clips out.")
    return found


def texts(messages: Sequence[Plain]) -> list[str]:
    """All that was written by somebody."""
    found = []
    for message in messages:
        content = message["content"]
        found += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return found


def holds(text: str, wanted: Mapping[str, int]) -> bool:
    """Whether each placeholder is there as often as it must be."""
    return all(text.count(mark) == count for mark, count in wanted.items())


def flat(content: str | list[Plain], marks: Mapping[str, str]) -> str:
    """Parts as text, each on a line of its own."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] if part["type"] == "text" else marks[part["type"]] for part in content)


def expanded(
    tokens: Sequence[int], sizes: Sequence[Size], ids: Mapping[str, int], tokens_max: int
) -> tuple[list[int], tuple[Spot, ...]] | int:
    """The tokens with room for every row, and where that is; or how many they are, if more than `tokens_max`.

    Parts of one kind stand in the order of the request. Raises Misplaced.
    """
    total = len(tokens) + sum(size.rows - 1 for size in sizes)
    if total > tokens_max:
        return total
    found: list[int] = []
    spots: list[Spot] = []
    left = list(sizes)
    known = frozenset(ids.values())
    for token in tokens:
        if token not in known:
            found.append(token)
            continue
        index = next((index for index, size in enumerate(left) if ids[size.kind] == token), -1)
        if index < 0:
            raise Misplaced("The prompt has more placeholders than pictures, sounds and clips.")
        size = left.pop(index)
        spots.append(Spot(size.kind, len(found), size.rows, size.content, size.across))
        found += [token] * size.rows
    if left:
        raise Misplaced(f"The prompt has no place for {len(left)} of the pictures, sounds and clips.")
    return found, tuple(spots)
