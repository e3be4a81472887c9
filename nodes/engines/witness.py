"""Shell. Sees that what an engine of its own has said keeps to the guide of its job.

Such an engine masks in a process of its own, where nobody can be told that a guide cannot be followed: what fits
nowhere ends there, and is found here.
"""

import asyncio

from nodes.contract.engine import Ending, Job
from nodes.engines.gathering import Piece
from nodes.guiding.deep import deeply
from nodes.guiding.following import Guides, Lost
from nodes.guiding.library import GuideRefused

BROKEN = "the guide could not be followed to its end"


class Witness:
    """Of one job."""

    def __init__(self, guides: Guides, job: Job) -> None:
        assert job.guide is not None
        self._guides, self._guide = guides, job.guide
        self._tokens = [*job.prompt, *job.generated]
        self._begins = len(job.prompt)

    async def ready(self) -> None:
        """Its guide was read. Raises GuideRefused, before the engine hears of the job."""
        await asyncio.shield(asyncio.wrap_future(self._guides.read(self._guide)))

    async def see(self, piece: Piece) -> None:
        """What has come of it. Raises ValueError if it ends as it must not."""
        self._tokens += piece.tokens
        if piece.ending is Ending.STOP and not await asyncio.wrap_future(deeply(self._kept)):
            raise ValueError(BROKEN)

    def _kept(self) -> bool:
        *before, last = self._tokens
        try:
            return bool(self._guides.follow(self._guide, self._begins).allowed(before)[last])
        except (GuideRefused, Lost):
            return False
