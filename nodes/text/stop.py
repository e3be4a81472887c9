"""Pure. Stop strings over a stream of text, whatever the borders of its pieces.

The text ends at the stop string that is complete first, as if it came character by character; of those complete at the
same character, at the longest. What might be the beginning of one is held back, and not a character more.

Strategy: one automaton (Aho-Corasick) for all stop strings of a request. Its state is the longest end of the text that
begins a stop string, so a character costs one or two dictionary look-ups however many and however nasty they are.
"""

import re
from collections.abc import Sequence


class Stops:
    """The stop strings of a request; the scanners of all its choices share it."""

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty stop string is everywhere"
        self.stops = tuple(stops)
        self.following: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.found = [-1]  # by node: which stop string is complete there
        for index, stop in enumerate(self.stops):
            self._add(index, stop)
        self.fallback = self._fallbacks()
        self.begins = re.compile("[" + "".join(re.escape(stop[0]) for stop in self.stops) + "]").search

    def _add(self, index: int, stop: str) -> None:
        node = 0
        for char in stop:
            after = self.following[node].get(char)
            if after is None:
                after = len(self.following)
                self.following[node][char] = after
                self.following.append({})
                self.depth.append(self.depth[node] + 1)
                self.found.append(-1)
            node = after
        if self.found[node] < 0:
            self.found[node] = index

    def _fallbacks(self) -> list[int]:
        """For each node the node of its longest proper end; a stop string that ends there is complete here too."""
        fallback = [0] * len(self.following)
        queue = list(self.following[0].values())
        for node in queue:  # Breadth first: it grows while we walk it.
            for char, after in self.following[node].items():
                queue.append(after)
                fallback[after] = self._after(fallback, fallback[node], char)
                if self.found[after] < 0:
                    self.found[after] = self.found[fallback[after]]
        return fallback

    def _after(self, fallback: list[int], node: int, char: str) -> int:
        while node and char not in self.following[node]:
            node = fallback[node]
        return self.following[node].get(char, 0)

    def step(self, node: int, char: str) -> int:
        """The node after a character."""
        return self._after(self.fallback, node, char)


class Scanner:
    """The stop strings over one stream."""

    __slots__ = ("_held", "_include", "_node", "_stops", "matched")

    def __init__(self, stops: Stops, include: bool = False) -> None:
        self._stops = stops
        self._include = include  # whether the stop string itself is part of the text
        self._node = 0
        self._held = ""
        self.matched = -1  # which stop string ended the text

    @property
    def held(self) -> int:
        """How many characters are held back."""
        return len(self._held)

    def feed(self, text: str, armed: bool = True) -> str:
        """More text; returns what is certain. Nothing more comes once `matched` is set.

        Unarmed, a stop string that becomes complete is text like any other (`min_tokens`).
        """
        assert self.matched < 0, "the text has ended"
        stops, node = self._stops, self._node
        if not node and not stops.begins(text):
            return text
        for index, char in enumerate(text):
            node = stops.step(node, char)
            if armed and stops.found[node] >= 0:
                return self._ended(node, text[: index + 1])
        self._node = node
        whole = self._held + text
        cut = len(whole) - stops.depth[node]
        self._held = whole[cut:]
        return whole[:cut]

    def _ended(self, node: int, text: str) -> str:
        self.matched = self._stops.found[node]
        whole, self._held, self._node = self._held + text, "", 0
        return whole if self._include else whole[: len(whole) - len(self.stop)]

    def finish(self) -> str:
        """The stream ends by itself: what was held back is text after all."""
        held, self._held, self._node = self._held, "", 0
        return held

    @property
    def stop(self) -> str:
        """The stop string that ended the text; empty if none did."""
        return self._stops.stops[self.matched] if self.matched >= 0 else ""
