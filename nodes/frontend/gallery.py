"""Pure. The pictures of one request: each is a request of the mesh, and each is there whole or not at all.

A picture that went on at another machine may come out a little different there. Then its pieces are of two pictures:
it is made anew, by a request of its own.
"""

from collections.abc import Callable, Sequence

from mesh.core import Finish
from nodes.contract.pictures import RESULT_BYTES_MAX, Piece, Step, Unit, Whole, digest_of, unit_of
from nodes.frontend.batch import Batch, Text
from nodes.openai.errors import SERVER, Problem
from proto.errors import Reason

ANEW_MAX = 2  # pictures of one request that are made anew: a mesh whose machines differ that much is not well
WRONG = Problem(500, "The worker's picture is not what it says it is.", SERVER, None, "engine_error")


class Picture(Text):
    """The feed of one picture."""

    __slots__ = ("_gallery", "pieces", "size", "whole")

    def __init__(self, gallery: "Gallery", index: int, request: int) -> None:
        super().__init__(gallery, index, request)
        self._gallery = gallery
        self.pieces: list[bytes] = []
        self.size = 0
        self.whole: Whole | None = None

    def deliver(self, position: int, items: Sequence[bytes], tokens: Sequence[int]) -> None:
        """Steps, and pieces of its file."""
        self.position += len(items)
        for item in items:
            try:
                self._take(unit_of(item))
            except ValueError:
                self.size = RESULT_BYTES_MAX + 1  # whatever it is, it is no picture

    def _take(self, unit: Unit) -> None:
        match unit:
            case Step():
                self._gallery.went(self.index, unit)
            case Piece() if self.size <= RESULT_BYTES_MAX:
                self.pieces.append(unit.data)
                self.size += len(unit.data)
            case Whole():
                self.whole = unit

    def file(self) -> tuple[str, bytes] | None:
        """What kind of file it is, and the file; None if it is not what its worker says."""
        whole, content = self.whole, b"".join(self.pieces)
        fits = whole is not None and len(content) == whole.size and digest_of(content) == whole.digest
        return (whole.media_type, content) if fits and whole is not None else None


class Gallery(Batch):
    """All pictures of one request. `went` is told of each step, `came` of each picture."""

    def __init__(
        self,
        count: int,
        changed: Callable[[], None],
        went: Callable[[int, Step], None] = lambda index, step: None,
        came: Callable[[int, bytes], None] = lambda index, content: None,
    ) -> None:
        super().__init__([0] * count, 0, "", changed)
        self.files: list[tuple[str, bytes]] = [("", b"")] * count
        self.went = went
        self._came = came
        self._anew = 0

    def begin(self, index: int, request: int) -> Picture:
        picture = Picture(self, index, request)
        self.running[request] = picture
        return picture

    def _take(self, text: Text, finish: Finish) -> None:
        if finish.reason is not Reason.COMPLETE or not isinstance(text, Picture):
            super()._take(text, finish)
            return
        found = text.file()
        text.pieces = []
        if self.problem is not None:
            return
        if found is not None:
            self.files[text.index], text.outcome = found, "stop"
            self._came(text.index, found[1])
        elif len(finish.nodes) > 1 and self._anew < ANEW_MAX:
            self._anew += 1
            self._waiting.appendleft(text.index)
        else:
            self.problem = WRONG
