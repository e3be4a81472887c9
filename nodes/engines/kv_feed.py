"""Shell. Listens to an engine that publishes the changes of its cache over ZeroMQ, as vLLM and SGLang do.

Nothing here waits: `events` takes what has come. What was published before we were heard of, and what got lost, is
asked for at the engine's replay socket; what it keeps no longer makes all that was known void.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from math import inf

import zmq

from nodes.contract.blocks import Digest
from nodes.contract.engine import BlockEvent
from nodes.engines.kv_events import Following, Translation

ASK_AGAIN_S = 1.0  # an engine answers within milliseconds, unless its process is busy
ASKED_MAX = 5  # then it is taken for one that will not answer
HWM = 100_000  # batches: what engines keep for a listener
OVER = (-1).to_bytes(8, "big", signed=True)  # the number of a replay's last message


class KvFeed:
    """The events of one rank. `bind` where the engine connects to us, for the stream only; it always binds `replay`."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        stream: str,
        replay: str,
        digest: Digest,
        *,
        topic: str = "",
        rank: int = 0,
        bind: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.following = Following()
        self.translation = Translation(digest, rank)
        self._clock = clock
        self._heard = False  # from the stream: what comes from now on, comes to us
        self._asked = 0
        self._ask_at = 0.0
        self._stream = context.socket(zmq.SUB)
        self._replay = context.socket(zmq.DEALER)
        for socket in (self._stream, self._replay):
            socket.set_hwm(HWM)
            socket.linger = 0
        self._stream.subscribe(topic)
        (self._stream.bind if bind else self._stream.connect)(stream)
        self._replay.connect(replay)

    def events(self) -> list[BlockEvent]:
        """What happened since the last call."""
        found: list[BlockEvent] = []
        while frames := _taken(self._stream):
            self._heard = True
            self._take(frames[-2:], found)
        while frames := _taken(self._replay):
            self._asked, self._ask_at = 0, self._clock() + ASK_AGAIN_S
            if frames[-2] == OVER:
                self._replayed(found)
            else:
                self._take(frames[-2:], found)
        self._ask(found)
        return found

    def close(self) -> None:
        """Twice is once."""
        self._stream.close(0)
        self._replay.close(0)

    def _take(self, frames: list[bytes], found: list[BlockEvent]) -> None:
        number, payload = frames
        for batch in self.following.heard(int.from_bytes(number, "big"), payload):
            found.extend(self.translation.batch(batch))

    def _replayed(self, found: list[BlockEvent]) -> None:
        """All that is kept has come. What is still missing is gone."""
        if self.following.gapped:
            found.extend(self.translation.clear())
            for batch in self.following.skip():
                found.extend(self.translation.batch(batch))
        self._ask_at = inf if self._heard and not self.following.gapped else self._clock() + ASK_AGAIN_S

    def _ask(self, found: list[BlockEvent]) -> None:
        """Until the stream was heard, nobody knows what it said before."""
        gapped, now = self.following.gapped, self._clock()
        if not gapped and self._heard:
            return
        if now < self._ask_at < inf:
            return
        if gapped and self._asked >= ASKED_MAX:
            self._asked = 0
            self._replayed(found)
            return
        self._asked += 1
        self._ask_at = now + ASK_AGAIN_S
        with suppress(zmq.Again):  # it is not there yet
            self._replay.send_multipart([b"", self.following.next.to_bytes(8, "big")], zmq.NOBLOCK)


def _taken(socket: zmq.Socket[bytes]) -> list[bytes]:
    """A message of at least two frames; nothing if none is there."""
    with suppress(zmq.ZMQError):  # it is closed
        while int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            frames = socket.recv_multipart(zmq.NOBLOCK)
            if len(frames) >= 2 and len(frames[-2]) == 8:
                return frames
    return []
