"""Pure. How often blocks were asked for lately, in a fixed number of bytes.

A count-min sketch of two rows that forgets: when it has counted a few times its width, every count is halved. It never
says less than the truth since then, and seldom more. Block hashes are even, so a row needs no hash of its own.
"""

COUNT_MAX = 255
ROWS_SHIFT = 32  # the rows look at different bits of a hash
AGE = 8  # counts per counter before all are halved: what is asked for once a day counts for nothing
WIDTH_MIN = 1 << 12
WIDTH_MAX = 1 << 20  # 2 MiB
_HALVES = bytes(count // 2 for count in range(COUNT_MAX + 1))


class Sketch:
    """Counts of names that are evenly spread 64-bit numbers."""

    def __init__(self, blocks: int) -> None:
        width = WIDTH_MIN
        while width < 8 * blocks and width < WIDTH_MAX:
            width *= 2
        self._mask = width - 1
        self._one = bytearray(width)
        self._other = bytearray(width)
        self._added = 0

    def add(self, name: int) -> None:
        """One more."""
        one, other = name & self._mask, name >> ROWS_SHIFT & self._mask
        if self._one[one] < COUNT_MAX:
            self._one[one] += 1
        if self._other[other] < COUNT_MAX:
            self._other[other] += 1
        self._added += 1
        if self._added > AGE * self._mask:
            self._added //= 2
            self._one = self._one.translate(_HALVES)
            self._other = self._other.translate(_HALVES)

    def count(self, name: int) -> int:
        """About how often."""
        return min(self._one[name & self._mask], self._other[name >> ROWS_SHIFT & self._mask])
