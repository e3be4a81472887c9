"""What a prefill laid out of its pictures: who goes on takes it, and looks for itself only where that is not there."""

import asyncio
import logging

import numpy as np
import pytest

from nodes.contract.media import Media
from nodes.media import limits
from nodes.media.desk import Desk
from nodes.media.embedder import Embedder
from nodes.native import AFTER, UNSEEN, Native
from tests.nodes.media.samples import picture
from tests.nodes.media.test_embedder import CARDS, DIGEST, ROWS, House, Towers, run, spot

MARK = "vllm 0123"


def test_who_goes_on_with_a_prompt_need_not_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a prefill had of its pictures comes along with what its engine says."""

    async def test(there: House) -> None:
        data, other = picture(1), picture(2)
        desk = Desk(there.embedder, asyncio.get_running_loop())
        held = await there.embedder.hold([spot(data), spot(other)], [there.media(data, other)])
        there.embedder.let_go(held)
        media = [Media(at, ROWS, name, one.rows) for at, (name, one) in enumerate(held.items())]
        packed = Native(AFTER, MARK).packed(b"where", 9, desk.lay_out([*media, media[0]]))
        for brought, towers, wanted in [([MARK], None, "fetched"), ([], Towers(), "encoded")]:
            room = np.empty(4 * limits.CACHE_BLOCK_BYTES, np.uint8)
            goes_on = Embedder(there.client, room, CARDS, DIGEST, towers, brought=brought)
            found = await goes_on.hold([spot(other), spot(data)], [there.media(data, other), packed])
            assert [found[one.content].rows.tobytes() for one in media] == [one.embedding.tobytes() for one in media]
            assert goes_on.figures[wanted] == 2
            goes_on.close()
        assert desk._ground is not None
        while desk._ground.bank.used:  # fetched once, it is free again
            await asyncio.sleep(0.001)
        monkeypatch.setattr(logging.getLogger("wiremesh.worker"), "warning", lambda *_: None)  # it would keep frames
        monkeypatch.setattr(limits, "HANDED_LEASE_S", -1.0)
        assert desk.lay_out(media) == UNSEEN, "it is only slower without"
        await desk.close()

    run(test)
