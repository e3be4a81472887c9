"""Pure. What was sent where, as a guess at what is cached there: for ranks that tell nothing, or whose word is awaited.

Bounded in blocks, counted per prompt (8 bytes each and a little per prompt). Forgotten is what was routed longest ago:
after a time, or only when the room is needed.
"""

from collections import OrderedDict

from nodes.routing.hashes import Hashes
from nodes.routing.lookup import Found
from nodes.routing.paths import Paths

Key = tuple[int, int]  # a seat, and the last block's hash, which names the whole prompt

EXPIRED_PER_CALL_MAX = 64  # each call clears away some, so that none has to clear away all
PROMPTS_MAX = 65_536  # whatever their length: to go through all of them is some 10 ms


class Remembered:
    """Prompts by seat and time. `ttl_s` 0: only room counts."""

    def __init__(self, ttl_s: float, blocks_max: int, prune_ratio: float = 0.8) -> None:
        self._ttl_s = ttl_s
        self._blocks_max = blocks_max
        self._least = int(blocks_max * prune_ratio)
        self._prompts: OrderedDict[Key, tuple[float, Hashes]] = OrderedDict()  # when added, the oldest first
        self._paths = Paths()
        self.blocks = 0  # of all prompts, each counted in full

    def add(self, seat: int, hashes: Hashes, now: float) -> None:
        """This prompt went there."""
        self._expire(now)
        if not hashes or len(hashes) > self._blocks_max:
            return
        key = (seat, hashes[-1])
        if key in self._prompts:
            self._prompts[key] = (now, self._prompts[key][1])
            self._prompts.move_to_end(key)
            return
        if self.blocks + len(hashes) > self._blocks_max:
            while self._prompts and self.blocks + len(hashes) > self._least:
                self._drop(next(iter(self._prompts)))
        if len(self._prompts) >= PROMPTS_MAX:
            self._drop(next(iter(self._prompts)))
        self._prompts[key] = (now, hashes)
        self._paths.add(seat, hashes)
        self.blocks += len(hashes)

    def overlaps(self, hashes: Hashes, now: float) -> Found:
        """How many leading blocks of a prompt went to each seat, as masks of seats."""
        self._expire(now)
        return self._paths.shared(hashes) if self._prompts else []

    def forget(self, seat: int) -> None:
        """Nobody sits there any more."""
        for key in [key for key in self._prompts if key[0] == seat]:
            self._drop(key)
        self._paths.forget(seat)

    def _expire(self, now: float) -> None:
        for _ in range(EXPIRED_PER_CALL_MAX):
            if not self._prompts or not self._ttl_s:
                return
            key, (added, _) = next(iter(self._prompts.items()))
            if now - added < self._ttl_s:
                return
            self._drop(key)

    def _drop(self, key: Key) -> None:
        _, hashes = self._prompts.pop(key)
        self._paths.remove(key[0], hashes)
        self.blocks -= len(hashes)

    def check(self) -> None:
        """Assert all invariants."""
        self._paths.check()
        assert self.blocks == sum(len(hashes) for _, hashes in self._prompts.values()) <= self._blocks_max
