"""Pure. Slurm's way to write many host names in few characters: `n[001-004,007],gpu-[1-2]x[3-4]`."""

import re

HOSTS_MAX = 16_384  # the largest Slurm clusters have fewer nodes
TEXT_CHARS_MAX = 65_536
DIGITS_MAX = 9

_RANGE = re.compile(rf"(\d{{1,{DIGITS_MAX}}})(?:-(\d{{1,{DIGITS_MAX}}}))?")
_PART = re.compile(r"\[([^\[\]]*)\]|([A-Za-z0-9._-]+)")


def expand(text: str) -> tuple[str, ...]:
    """The host names, in order. Raises ValueError with the part that cannot be read."""
    if len(text) > TEXT_CHARS_MAX:
        raise ValueError(f"a host list of {len(text)} characters; {TEXT_CHARS_MAX} is the most")
    hosts: list[str] = []
    for entry in _split(text):
        hosts.extend(_expand_entry(entry, HOSTS_MAX - len(hosts)))
    return tuple(dict.fromkeys(hosts))


def _split(text: str) -> list[str]:
    """The entries between the commas that are outside of brackets."""
    entries, depth, entry = [], 0, ""
    for character in text.strip():
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            entries.append(entry)
            entry = ""
        else:
            entry += character
    return [*entries, entry]


def _expand_entry(entry: str, room: int) -> list[str]:
    names, end = [""], 0
    for part in _PART.finditer(entry):
        if part.start() != end:
            break
        end = part.end()
        tails = [part[2]] if part[1] is None else _numbers(part[1], entry, room)
        if len(names) * len(tails) > room:
            raise ValueError(f"{entry!r} stands for more than {HOSTS_MAX} hosts")
        names = [name + tail for name in names for tail in tails]
    if end != len(entry) or not entry:
        raise ValueError(f"{entry!r} is no host name")
    return names


def _numbers(text: str, entry: str, room: int) -> list[str]:
    """What `001-004,007` stands for; the first number of a range says how wide all are."""
    numbers: list[str] = []
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece)
        if match is None:
            raise ValueError(f"{piece!r} in {entry!r} is no range of numbers")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{piece!r} in {entry!r} runs backwards")
        if last - first >= room - len(numbers):
            raise ValueError(f"{entry!r} stands for more than {HOSTS_MAX} hosts")
        numbers.extend(str(number).zfill(len(match[1])) for number in range(first, last + 1))
    return numbers
