"""Pure. Whether a tier is worth asking: after failures it is left alone for a while, and longer each time."""

from math import inf

IN_A_ROW = 3  # one bad file is no bad disk
PAUSE_S = 1.0
PAUSE_MAX_S = 60.0  # somebody who frees a full disk sees it used again within a minute


class Health:
    """Of one way of using one tier."""

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.trouble = ""  # the last
        self._pause_s = 0.0
        self._until = -inf

    def is_marked(self, now: float) -> bool:
        """Whether it is left alone. When the pause is over it is tried again: one more failure marks it again."""
        return now < self._until

    def failed(self, now: float, trouble: str, surely: bool = False) -> bool:
        """It did not work; `surely`: nor will it soon. Whether that marks it."""
        self.failures += 1
        self.trouble = trouble
        if now < self._until or not (surely or self._pause_s or self.failures >= IN_A_ROW):
            return False
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S) or PAUSE_S
        self._until = now + self._pause_s
        return True

    def worked(self) -> None:
        """All is well."""
        self.failures = 0
        self.trouble = ""
        self._pause_s = 0.0
        self._until = -inf
