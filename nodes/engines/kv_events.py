"""Pure. What vLLM and SGLang publish of their caches, in the words of this mesh.

Both publish numbered batches `[when, [event, ...], rank]`; an event is a map with a "type", in older versions an array
that begins with it. They name blocks by hashes of their own, which differ between engines, versions and seeds, are
signed or not, or are bytes. Ours come from the tokens (`blocks.chain`), and events carry those: so the name that an
engine gave is only used to find a parent, and what is to be removed.

Where pictures are, our names come from what they show (`nodes.contract.media`), as vLLM was told to call them. A block
that our names cannot tell from another is left out, and so is what follows it: one under a LoRA, for example.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from nodes.contract.blocks import Digest, link, root
from nodes.contract.engine import BlockEvent
from nodes.contract.media import Media, hashed_tokens, known_as

Theirs = int | bytes
BATCHES_HELD_MAX = 10_000  # that came after a gap: as many as an engine keeps to be asked for


class _Stored(Struct):
    """In the order in which older versions wrote the fields."""

    block_hashes: list[Theirs]
    parent_block_hash: Theirs | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    cache_salt: str | None = None  # SGLang
    extra_keys: list[Any] | None = None  # vLLM: what a block's hash covers besides its tokens
    group_idx: int | None = None  # vLLM, where layers have caches of several kinds


class _Removed(Struct):
    block_hashes: list[Theirs]
    medium: str | None = None
    group_idx: int | None = None


class _Batch(Struct, array_like=True):
    when: float
    events: list[Any]


_KINDS: dict[str, type[Struct] | None] = {"BlockStored": _Stored, "BlockRemoved": _Removed, "AllBlocksCleared": None}
_decode = msgspec.msgpack.Decoder(_Batch).decode
_DEVICE = (None, "GPU")  # so it is called on a CPU too


class Translation:
    """Of one rank's cache: their names to ours."""

    def __init__(self, digest: Digest, rank: int = 0) -> None:
        self.left_out = 0  # events that could not be read, or that our names cannot tell
        self._digest = digest
        self._rank = rank
        self._ours: dict[Theirs, int] = {}

    def batch(self, payload: bytes) -> list[BlockEvent]:
        """The events of one batch. What makes no sense is left out, and counted."""
        try:
            events = _decode(payload).events
        except (msgspec.DecodeError, ValueError):
            self.left_out += 1
            return []
        found: list[BlockEvent] = []
        for event in events:
            try:
                found.extend(self._event(*_read(event)))
            except (ValueError, OverflowError):
                self.left_out += 1
        return found

    def clear(self) -> list[BlockEvent]:
        """Nothing is known of the cache any more."""
        self._ours.clear()
        return [BlockEvent("cleared", rank=self._rank)]

    def _event(self, kind: str, event: Struct | None) -> list[BlockEvent]:
        if isinstance(event, _Stored):
            return self._stored(event)
        if isinstance(event, _Removed):
            return self._removed(event)
        return self.clear() if kind == "AllBlocksCleared" else []

    def _stored(self, event: _Stored) -> list[BlockEvent]:
        if event.medium not in _DEVICE or event.group_idx:
            return []
        theirs, size, keys = event.block_hashes, event.block_size, _keys(event)
        parent = self._parent(event, keys[0][0] if keys else "") if keys is not None else None
        if keys is None or parent is None or size < 1 or len(event.token_ids) != len(theirs) * size:
            self.left_out += 1
            return []
        first, hashes = parent, []
        shown: list[int] = []
        for name, tokens, (_, media) in zip(theirs, _pieces(event.token_ids, size), keys, strict=True):
            tokens = hashed_tokens(tokens, media) if media else tokens
            parent = self._ours[name] = link(tokens, parent, self._digest)
            hashes.append(parent)
            shown += tokens
        return [BlockEvent("stored", hashes, first, shown, self._rank)] if hashes else []

    def _parent(self, event: _Stored, salt: str) -> int | None:
        """Our name of the block before; None: we have no names for these."""
        if event.lora_id is not None or event.lora_name is not None:
            return None
        if event.parent_block_hash is not None:
            return None if salt else self._ours.get(event.parent_block_hash)
        return root(event.cache_salt or salt, self._digest)

    def _removed(self, event: _Removed) -> list[BlockEvent]:
        if event.medium not in _DEVICE or event.group_idx:
            return []
        known = (self._ours.pop(name, None) for name in event.block_hashes)
        hashes = [name for name in known if name is not None]
        return [BlockEvent("removed", hashes, rank=self._rank)] if hashes else []


def _keys(event: _Stored) -> list[tuple[str, list[Media]]] | None:
    """Of each block, a salt, which the first may have, and what it shows; None if there is anything else."""
    given = event.extra_keys or [None] * len(event.block_hashes)
    if len(given) != len(event.block_hashes):
        return None
    found: list[tuple[str, list[Media]]] = []
    for block in given:
        salt, media = "", []
        for key in block or ():
            part = _shown(key)
            if part is not None:
                media.append(part)
            elif isinstance(key, str) and not salt and not found:
                salt = key
            else:
                return None
        found.append((salt, media))
    return found


def _shown(key: Any) -> Media | None:
    """[what it is called, where it begins in the block]: before it, if that is negative."""
    if isinstance(key, list | tuple) and len(key) == 2 and isinstance(key[0], str) and isinstance(key[1], int):
        return known_as(key[0], key[1])
    return None


def _pieces(tokens: Sequence[int], size: int) -> list[Sequence[int]]:
    """Pieces of `size`, in order."""
    return [tokens[first : first + size] for first in range(0, len(tokens), size)]


def _read(event: Any) -> tuple[str, Struct | None]:
    """Its kind and what it says. Raises ValueError."""
    if isinstance(event, dict):
        kind, fields = event.get("type", ""), event
    elif isinstance(event, list) and event:
        kind, fields = event[0], {}
        if (schema := _KINDS.get(kind)) is not None:
            fields = dict(zip(schema.__struct_fields__, event[1:], strict=False))
    else:
        raise ValueError("an event is a map, or an array")
    if kind not in _KINDS:
        raise ValueError(f"no event is called {kind!r}")
    schema = _KINDS[kind]
    return kind, None if schema is None else msgspec.convert(fields, schema)


class Following:
    """Batches in the order of their numbers. Who listens too late, or loses one, asks for it again.

    The first batch that an engine ever published is number 0: with any other the ones before it are missing.
    """

    def __init__(self) -> None:
        self.next = 0  # the number that is to come
        self.gaps = 0
        self._held: dict[int, bytes] = {}  # what came after a gap

    @property
    def gapped(self) -> bool:
        """Whether something is missing that must be asked for, from `next` on."""
        return bool(self._held)

    def heard(self, number: int, payload: bytes) -> list[bytes]:
        """What can be read now, in order."""
        if number < self.next:
            return []
        if number > self.next:
            self.gaps += not self._held
            if len(self._held) < BATCHES_HELD_MAX:
                self._held[number] = payload
            return []
        self.next += 1
        return [payload, *self._continued()]

    def skip(self) -> list[bytes]:
        """What is missing cannot be had any more: what was known is void, and these come after it."""
        if self._held:
            self.next = min(self._held)
        return self._continued()

    def _continued(self) -> list[bytes]:
        found = []
        while (payload := self._held.pop(self.next, None)) is not None:
            found.append(payload)
            self.next += 1
        return found
