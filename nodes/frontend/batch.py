"""Pure. The texts of one embeddings request: each is a request of the mesh, and some of them run at a time.

A text that the mesh has no room for waits until another one of this batch is done; only if none of them runs, and none
may, the batch fails. Otherwise it fails with the first of its texts, and the others end.
"""

from collections import deque
from collections.abc import Callable, Sequence
from math import ceil

from mesh.core import Finish
from nodes.openai.embeddings import FLOAT_BYTES, shown
from nodes.openai.errors import SERVER, Problem, of_reason
from proto.errors import Reason

AT_ONCE = 128  # texts of one batch: the slots of two workers, so that others get in between
FULL = (Reason.BUSY, Reason.OVERFLOW, Reason.PREEMPT)
SHARE = 0.5  # of those that ran, that may run after one was refused
WRONG = Problem(500, "The worker's embedding is of another size than its card says.", SERVER, None, "engine_error")


class Text:
    """The feed of one text. `position` is what the mesh wants to know: nothing waits to be read here."""

    __slots__ = ("_batch", "content", "finish", "index", "outcome", "position", "request")

    def __init__(self, batch: "Batch", index: int, request: int) -> None:
        self.request = request
        self.index = index
        self.position = 0
        self.content = b""
        self.finish: Finish | None = None
        self.outcome = ""
        self._batch = batch

    def deliver(self, position: int, items: Sequence[bytes], tokens: Sequence[int]) -> None:
        """The vector."""
        for item in items:
            self.content = item
            self.position += 1

    def end(self, finish: Finish) -> None:
        """There is no more."""
        self.finish = finish
        self._batch.ended(self)


class Batch:
    """All texts of one request. `changed` is called when some may begin, or when it is over."""

    first_s = -1.0  # there is no first token

    def __init__(
        self, lengths: Sequence[int], size: int, encoding: str, changed: Callable[[], None], at_once: int = AT_ONCE
    ) -> None:
        """`lengths`: tokens of each text. `size`: numbers in a vector."""
        self.problem: Problem | None = None
        self.parts = [b""] * len(lengths)  # of the answer
        self.choices: list[Text] = []  # those that have ended
        self.running: dict[int, Text] = {}  # by their requests
        self._lengths = lengths
        self._bytes = size * FLOAT_BYTES
        self._encoding = encoding
        self._changed = changed
        self._waiting = deque(range(len(lengths)))
        self._at_once = at_once

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.problem is not None or not (self.running or self._waiting)

    def next(self) -> int:
        """The text that may begin now; -1 if none may."""
        may = self._waiting and self.problem is None and len(self.running) < self._at_once
        return self._waiting.popleft() if may else -1

    def begin(self, index: int, request: int) -> Text:
        """A text begins, as this request of the mesh."""
        text = self.running[request] = Text(self, index, request)
        return text

    def ended(self, text: Text) -> None:
        """One of them has ended."""
        if self.running.pop(text.request, None) is None or text.finish is None:
            return
        finish = text.finish
        if finish.reason in FULL and self.running and self.problem is None:
            self._at_once = max(1, ceil(len(self.running) * SHARE))
            self._waiting.appendleft(text.index)
        else:
            self.choices.append(text)
            self._take(text, finish)
        self._changed()

    def _take(self, text: Text, finish: Finish) -> None:
        if self.problem is not None:
            return
        if finish.reason is not Reason.COMPLETE:
            retry_s = finish.retry_ms / 1000 if finish.retry_ms else None
            self.problem = of_reason(finish.reason, finish.text, retry_s)
        elif len(text.content) != self._bytes:
            self.problem = WRONG
        else:
            self.parts[text.index] = shown(text.index, text.content, self._encoding)
            self._at_once = min(self._at_once + 1, AT_ONCE)
            text.content, text.outcome = b"", "stop"

    def fail(self, problem: Problem) -> None:
        """It ends here, unless it is over. What still runs is wanted by nobody."""
        if not self.done:
            self.problem = problem
            self._changed()

    # --- For the log, as of a generation -------------------------------------------------------------------

    def counts(self) -> tuple[int, int, int]:
        """Tokens of all texts; none is generated or cached."""
        return sum(self._lengths), 0, 0

    def nodes(self) -> list[int]:
        """The nodes that had a part in it."""
        found = [node for text in self.choices if text.finish is not None for node in text.finish.nodes]
        return list(dict.fromkeys(found))

    def attempts(self) -> int:
        """Legs of all its requests."""
        return sum([text.finish.attempts for text in self.choices if text.finish is not None])
