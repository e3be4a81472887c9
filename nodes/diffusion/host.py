"""Shell. Runs the legs of `imagine/MODEL`: one picture at a time, in a thread of its own.

A leg is ended between two steps. Its room is free when its step is over, not before: the engine makes one at a time.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from msgspec import Struct

from mesh.core import Event, Failed, Finished, Go, Halt, Hint, Leg, Produced, Progressed, Start, Yielded
from nodes import names
from nodes.contract.pictures import (
    RESULT_BYTES_MAX,
    Painter,
    PainterDead,
    PictureCard,
    Scene,
    Step,
    Unwanted,
    encode,
    fitted,
    scene_of,
    units_of,
)
from nodes.host import Crashed, Pulse
from nodes.metrics import Family, Histogram, counter, gauge
from proto.errors import Reason
from proto.limits import TEXT_CHARS_MAX
from proto.messages import Offer

STEP_S_MAX = 300.0  # for one step, or for making the pixels of the last: the first of a process may compile for minutes
PICTURE_S_MAX = 3_600.0  # for a whole one, by an engine that tells no steps: long clips take most of an hour
JOIN_S = 10.0  # at the end: how long a step that still runs may take
SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)

log = logging.getLogger("wiremesh.worker")

Filed = Callable[[Scene, bytes], tuple[str, bytes]]  # from pixels to a file, and what kind of file it is


class Work(Struct, eq=False):
    """One leg, from its start to its end."""

    leg: Leg
    scene: Scene
    began: float
    end: Event | None = None  # how it is to end: somebody has ended it


class PictureHost:
    """The legs of one engine. `crashed` is called once, when it dies."""

    def __init__(self, painter: Painter, card: PictureCard, filed: Filed, crashed: Crashed) -> None:
        self._painter = painter
        self._card = card
        self._filed = filed
        self._crashed = crashed
        self._offer = Offer(names.IMAGINE + card.model, resumable=True, slots=1)
        self._works: dict[Leg, Work] = {}
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._paint, name="pictures", daemon=True)
        self._moved = time.monotonic()
        self._pulse: Pulse | None = None
        self.outcomes = dict.fromkeys(("complete", "refused", "failed", "cancelled", "stopped"), 0)
        self.steps = 0
        self.seconds = Histogram(SECONDS)

    # --- For the actor -----------------------------------------------------------------------------------

    def offer(self) -> Offer:
        return self._offer

    def attach(self, post: Callable[[Event], None], loop: asyncio.AbstractEventLoop) -> None:
        self._post, self._loop = post, loop
        self._pulse = Pulse(post, loop, self._is_well)
        self._thread.start()

    def holds(self, leg: Leg) -> bool:
        return leg in self._works

    def start(self, start: Start) -> None:
        try:
            scene = fitted(scene_of(start.payload), self._card)
        except ValueError as error:
            self.outcomes["refused"] += 1
            self._post(Failed(start.leg, Reason.INVALID, text=str(error)))
            return
        work = self._works[start.leg] = Work(start.leg, scene, time.monotonic())
        if len(self._works) == 1:
            self._moved = work.began
        self._queue.put(work)

    def go(self, go: Go) -> None:
        """No leg here waits for another."""

    def hint(self, hint: Hint) -> None:
        self._unwanted(hint.leg, Finished(hint.leg))

    def halt(self, halt: Halt) -> None:
        self._unwanted(halt.leg, Yielded(halt.leg))

    async def close(self) -> None:
        if self._pulse is not None:
            self._pulse.stop()
        for leg in self._works:
            self._unwanted(leg, Yielded(leg))
        self._queue.put(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, JOIN_S)

    @property
    def active(self) -> int:
        """Legs that it works on."""
        return len(self._works)

    def _unwanted(self, leg: Leg, end: Event) -> None:
        work = self._works.get(leg)
        if work is not None and work.end is None:
            work.end = end

    def _is_well(self) -> bool:
        still_s_max = STEP_S_MAX if self._card.tells_steps else PICTURE_S_MAX
        return not self._works or time.monotonic() - self._moved < still_s_max

    # --- In the thread -----------------------------------------------------------------------------------

    def _paint(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                ends, outcome = self._painted(work), "complete"
            except Unwanted:
                ends, outcome = [], "cancelled"
            except PainterDead as error:
                self._tell(self._crashed, error)
                return
            except (Exception, SystemExit) as error:  # of an engine, or of the model's own code
                log.error("a picture failed", exc_info=error)
                text = f"{type(error).__name__}: {error}"[:TEXT_CHARS_MAX]
                ends, outcome = [Failed(work.leg, Reason.FAILED, text=text)], "failed"
            self._tell(self._over, work, ends, outcome)
        self._painter.stop()

    def _painted(self, work: Work) -> list[Event]:
        """A whole picture. Raises Unwanted."""
        scene, leg = work.scene, work.leg

        def went(made: int) -> None:
            if work.end is not None:
                raise Unwanted
            self._tell(self._went, work, encode(Step(made, scene.steps)))

        if work.end is not None:
            raise Unwanted
        pixels = self._painter.paint(scene, went)
        media_type, content = self._filed(scene, pixels)
        if len(content) > RESULT_BYTES_MAX:
            return [Failed(leg, Reason.TOO_LARGE, text=f"it has {len(content)} bytes: {RESULT_BYTES_MAX} are the most")]
        return [Produced(leg, list(units_of(media_type, content))), Finished(leg)]

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        """In the loop; it may have ended meanwhile, and then nobody listens."""
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:
            log.debug("a picture comes after the end of its worker")

    # --- What it tells, in the loop ------------------------------------------------------------------------

    def _went(self, work: Work, unit: bytes) -> None:
        self._moved = time.monotonic()
        self.steps += 1
        if work.end is None:
            self._post(Produced(work.leg, [unit]))
            self._post(Progressed())

    def _over(self, work: Work, ends: list[Event], outcome: str) -> None:
        self._moved = time.monotonic()
        del self._works[work.leg]
        if work.end is not None:  # whatever came of it, nobody wants it any more
            ends, outcome = [work.end], "stopped" if isinstance(work.end, Finished) else "cancelled"
        elif outcome == "complete":
            self.seconds.add(self._moved - work.began)
        self.outcomes[outcome] += 1
        for event in ends:
            self._post(event)

    def families(self) -> list[Family]:
        """The metrics of this host."""
        outcomes: dict[str, float] = dict(self.outcomes)
        name = "wiremesh_pictures_"
        return [
            counter(f"{name}total", "Pictures and clips that this worker has ended, by how.", outcomes, "outcome"),
            counter(f"{name}steps_total", "Steps of them that it has made.", self.steps),
            gauge(f"{name}active", "Those that it works on.", self.active),
            Family(f"{name}seconds", "histogram", "From start to end of each.", [self.seconds.sample()]),
        ]
