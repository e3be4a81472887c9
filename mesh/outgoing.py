"""Pure. What one owner gets at the end of this turn: the parts of all its streams in one message, then the endings.

A leg's part is extended while the turn lasts. Chunks are cut at CHUNK_BYTES_TARGET, so that a heartbeat never waits
behind megabytes, and in any case before a frame could grow beyond its bound.
"""

from collections.abc import Sequence

from mesh.held import Held, Stretch
from proto import codec, limits
from proto.basics import Message
from proto.messages import Chunk, Part

PART_BYTES = 16  # numbers and headers of a part
TOKEN_BYTES = 5  # the largest token id
ONE_TOKENS_MAX = 1024  # what `one` takes: far below what makes a chunk of its own


class Outgoing:
    """Chunks and endings for one owner."""

    __slots__ = ("_bytes", "_chunks", "_endings", "_open")

    def __init__(self) -> None:
        self._chunks: list[list[Part]] = []
        self._open: list[Held] = []  # legs whose part is in the newest chunk
        self._endings: list[Message] = []
        self._bytes = limits.CHUNK_BYTES_TARGET  # full: the first part opens a chunk

    def add(self, held: Held, stretch: Stretch) -> None:
        """Put a stretch of a leg's stream into the newest chunk, or into as many as it needs."""
        position, tokens, items, checkpoint = stretch
        size = PART_BYTES + TOKEN_BYTES * len(tokens) + sum(map(len, items)) + len(checkpoint or b"")
        units = len(tokens) or len(items)
        if (size > limits.CHUNK_BYTES_TARGET or len(items) > limits.ITEMS_MAX) and units > 1:
            half = units // 2
            self.add(held, (position, tokens[:half], items[:half], None))
            self.add(held, (position + half, tokens[half:], items[half:], checkpoint))
        else:
            self._put(held, stretch, size)

    def _put(self, held: Held, stretch: Stretch, size: int) -> None:
        position, tokens, items, checkpoint = stretch
        part = held.part
        if self._bytes + size > limits.CHUNK_BYTES_TARGET or len(self._chunks[-1]) >= limits.PARTS_MAX:
            self._cut()
            part = None
        self._bytes += size
        if part is None or part.checkpoint is not None or len(part.items or ()) + len(items) > limits.ITEMS_MAX:
            self._begin(held, Part(held.name.request, held.name.attempt, position, list(tokens), list(items) or None))
            assert held.part is not None
            held.part.checkpoint = checkpoint
            return
        assert isinstance(part.tokens, list)
        part.tokens.extend(tokens)
        if items:
            part.items = [*(part.items or ()), *items]
        part.checkpoint = checkpoint

    def _begin(self, held: Held, part: Part) -> None:
        part.cached, held.cached = held.cached, 0
        held.part = part
        self._chunks[-1].append(part)
        self._open.append(held)

    def started(self, held: Held) -> None:
        """Say that a leg which had to wait has its slot now."""
        self.add(held, (held.sent, [], [], None))

    def one(self, held: Held, position: int, tokens: Sequence[int]) -> None:
        """The common case of `add`, once for each stream and step: a few tokens and nothing else."""
        size = PART_BYTES + TOKEN_BYTES * len(tokens)
        part = held.part
        if self._bytes + size > limits.CHUNK_BYTES_TARGET or len(tokens) > ONE_TOKENS_MAX:
            self.add(held, (position, list(tokens), [], None))
        elif part is not None and part.checkpoint is None and part.items is None and type(part.tokens) is list:
            part.tokens += tokens
            self._bytes += size
        elif part is not None or len(self._chunks[-1]) >= limits.PARTS_MAX:
            self.add(held, (position, list(tokens), [], None))
        else:
            self._bytes += size
            name = held.name
            part = held.part = Part(name.request, name.attempt, position, list(tokens), None, None, held.cached)
            held.cached = 0
            self._chunks[-1].append(part)
            self._open.append(held)

    def end(self, message: Message) -> None:
        """The last word about a leg; it goes after every part."""
        self._endings.append(message)

    def messages(self) -> list[Message]:
        """Everything, in order."""
        self._cut()
        for chunk in self._chunks:
            for part in chunk:
                part.tokens = codec.pack(part.tokens) if isinstance(part.tokens, list) else part.tokens
        return [*(Chunk(parts) for parts in self._chunks if parts), *self._endings]

    def _cut(self) -> None:
        for held in self._open:
            held.part = None
        self._open.clear()
        self._chunks.append([])
        self._bytes = 0


class Outbound:
    """What is gathered for all owners."""

    def __init__(self) -> None:
        self._by_owner: dict[int, Outgoing] = {}

    def __bool__(self) -> bool:
        return bool(self._by_owner)

    def to(self, owner: int) -> Outgoing:
        """What this owner gets."""
        outgoing = self._by_owner.get(owner)
        if outgoing is None:
            outgoing = self._by_owner[owner] = Outgoing()
        return outgoing

    def owners(self) -> list[int]:
        """Who gets something."""
        return list(self._by_owner)

    def take(self, owner: int) -> list[Message]:
        """All of it for one owner, in order."""
        outgoing = self._by_owner.pop(owner, None)
        return outgoing.messages() if outgoing else []
