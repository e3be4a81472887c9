"""Pure. What an undisturbed stream looks like. A unit depends on all before it, so that a wrong resume shows.

Handlers and the reference of a call use the same `advance`; they differ in that a handler may be anywhere and anew.
"""

from struct import pack
from zlib import crc32

from mesh.simulation.plan import PLAIN, TOKENS, Call, Work

TOKEN_MAX = 50_000


def fold(seed: int, numbers: list[int]) -> int:
    """What a token stream remembers after these tokens."""
    value = seed
    for number in numbers:
        value = crc32(pack("<I", number), value)
    return value


def advance_token(memory: int) -> tuple[int, int]:
    """The next token, and the memory after it."""
    token = memory % TOKEN_MAX
    return token, crc32(pack("<I", token), memory)


def advance_item(memory: int, position: int) -> tuple[bytes, int]:
    """The next item of a checked stream, and the memory after it."""
    item = b"%d.%x" % (position, memory & 0xFFFF)
    return item, crc32(item, memory)


def plain_item(seed: int, position: int) -> bytes:
    """The item of a plain stream at a position."""
    return b"%d:%d" % (seed, position)


def prompt_of(call: Call) -> list[int]:
    """The prompt of a call: tokens that differ between calls."""
    return [(call.work.seed * 31 + index * 7) % TOKEN_MAX for index in range(call.prompt)]


def expected(endpoint: str, work: Work, prompt: list[int]) -> list[bytes] | list[int]:
    """All units of a stream. A chain yields what is behind it."""
    if endpoint == TOKENS:
        return _tokens(work, prompt)
    if PLAIN in (endpoint, work.inner):
        return [plain_item(work.seed, position) for position in range(work.units)]
    items, memory = [], work.seed
    for position in range(work.units):
        item, memory = advance_item(memory, position)
        items.append(item)
    return items


def _tokens(work: Work, prompt: list[int]) -> list[int]:
    tokens, memory = [], fold(work.seed, prompt)
    for _ in range(work.units):
        token, memory = advance_token(memory)
        tokens.append(token)
    return tokens


def checkpoint(position: int, memory: int) -> bytes:
    """The state of a checked stream."""
    return pack("<II", position, memory)
