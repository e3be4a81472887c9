"""A painter for tests: its pictures are a function of their scene, and a test may let each of its steps wait."""

import threading
from random import Random

from nodes.contract.pictures import PictureCard, Scene, Went

CARD = PictureCard("played", "m", width=32, height=16, steps=4, guidance=5.0, pixels_max=64 * 64)
WAIT_S = 20.0  # a test that fails must end


def pixels_of(scene: Scene) -> bytes:
    """What it makes."""
    return Random(repr(scene)).randbytes(scene.width * scene.height * 3 * max(1, scene.frames))


class Played:
    """Keeps the contract of `nodes.contract.pictures.Painter`."""

    def __init__(self, steps_free: int = 1_000_000, card: PictureCard = CARD) -> None:
        self.card = card
        self.scenes: list[Scene] = []
        self.steps = 0
        self.stops = 0
        self.raises: BaseException | None = None
        self._free = threading.Semaphore(steps_free)

    def let(self, steps: int = 1) -> None:
        """So many steps more may be made."""
        self._free.release(steps)

    def start(self) -> PictureCard:
        return self.card

    def paint(self, scene: Scene, went: Went) -> bytes:
        self.scenes.append(scene)
        for step in range(scene.steps):
            assert self._free.acquire(timeout=WAIT_S)
            if self.raises is not None:
                raise self.raises
            self.steps += 1
            went(step + 1)
        return pixels_of(scene)

    def stop(self) -> None:
        self.stops += 1
