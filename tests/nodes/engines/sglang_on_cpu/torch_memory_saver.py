"""For tests only: stands in for the package that gives a GPU's memory back. Here is none, and nothing is given back.

It knows what would have been: to give a thing back twice, or to take one that is there, is a mistake as with the real
one. Used with SGLang's flag --enable-memory-saver.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def configure_subprocess() -> Iterator[None]:
    """The real one loads a library into it."""
    yield


class _Saver:
    """By the names of SGLang's regions: the cache, the weights, graphs."""

    enabled = True

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._given: set[str] = set()

    @contextmanager
    def region(self, tag: str, **more: Any) -> Iterator[None]:
        self._known.add(tag)
        yield

    def pause(self, tag: str) -> None:
        if tag not in self._known or tag in self._given:
            raise RuntimeError(f"{tag} is not there")
        self._given.add(tag)

    def resume(self, tag: str) -> None:
        if tag not in self._given:
            raise RuntimeError(f"{tag} is there already")
        self._given.remove(tag)


torch_memory_saver = _Saver()
