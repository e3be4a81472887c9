"""Pure. Streams that can be joined: by who sends the same request again, and by who knows their name.

A stream is kept if its request says what it belongs to (a session header or an Idempotency-Key). It stays while it
runs, after its last client has left for a grace, and after its end for a grace.
"""

from collections.abc import Callable
from hashlib import blake2b
from math import inf
from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Kept(Struct, Generic[T]):
    """One stream that is kept."""

    name: str
    identity: bytes  # equal for requests that are the same
    owner: str  # the API key's name: nobody else gets it
    body: bytes  # a hash of the request's body
    lasting: bool  # an Idempotency-Key: it is joined even when it was answered in full
    item: T
    until: float = inf


def digest(*parts: bytes) -> bytes:
    """One name for several things."""
    made = blake2b(digest_size=16)
    for part in parts:
        made.update(len(part).to_bytes(8, "little") + part)
    return made.digest()


class Board(Generic[T]):
    """All streams that are kept. `size` tells how many bytes one holds."""

    def __init__(self, size: Callable[[T], int], bytes_max: int) -> None:
        self._size = size
        self._bytes_max = bytes_max
        self._by_name: dict[str, Kept[T]] = {}
        self._by_identity: dict[bytes, Kept[T]] = {}
        self.bytes = 0  # as of the last `due`

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def full(self) -> bool:
        """Whether no more may be kept."""
        return self.bytes >= self._bytes_max

    def add(self, kept: Kept[T]) -> None:
        """A stream begins."""
        self._by_name[kept.name] = self._by_identity[kept.identity] = kept

    def same(self, identity: bytes) -> Kept[T] | None:
        """The stream of an equal request."""
        return self._by_identity.get(identity)

    def named(self, name: str, owner: str) -> Kept[T] | None:
        """The stream of that name, if it is this owner's."""
        kept = self._by_name.get(name)
        return kept if kept is not None and kept.owner == owner else None

    def leave(self, name: str, until: float) -> None:
        """From now on it is only kept for who may come back."""
        kept = self._by_name.get(name)
        if kept is not None:
            kept.until = until

    def stay(self, name: str) -> None:
        """Somebody is there again."""
        self.leave(name, inf)

    def answered(self, name: str) -> None:
        """A client has got all of it: who sends the same again without an Idempotency-Key wants a new one."""
        kept = self._by_name.get(name)
        if kept is not None and not kept.lasting and self._by_identity.get(kept.identity) is kept:
            del self._by_identity[kept.identity]

    def due(self, now: float) -> list[T]:
        """Forget those whose time is up, and of the others the ones nearest to it where all hold too many bytes."""
        gone = [kept for kept in self._by_name.values() if kept.until <= now]
        for kept in gone:
            self._forget(kept)
        self.bytes = sum(self._size(kept.item) for kept in self._by_name.values())
        if self.bytes > self._bytes_max:
            leaving = [kept for kept in self._by_name.values() if kept.until < inf]
            for kept in sorted(leaving, key=lambda kept: kept.until):
                self._forget(kept)
                gone.append(kept)
                self.bytes -= self._size(kept.item)
                if self.bytes <= self._bytes_max:
                    break
        return [kept.item for kept in gone]

    def _forget(self, kept: Kept[T]) -> None:
        del self._by_name[kept.name]
        if self._by_identity.get(kept.identity) is kept:
            del self._by_identity[kept.identity]
