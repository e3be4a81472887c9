"""Shell. What the data plane is compared with: a copy over plain ZeroMQ, and NIXL's own read, and nothing around."""

import numpy as np
import zmq
from numpy.typing import NDArray

from nodes.transfer.limits import CHUNK_BYTES
from nodes.transfer.nixl_agent import KIND, library


def send_plain(socket: "zmq.Socket[bytes]", view: memoryview) -> None:
    """The plain copy: as fast as ZeroMQ takes it, from where it lies. Who asks for nothing ends it."""
    while True:
        peer, wanted = socket.recv_multipart()
        if not int(wanted):
            return
        for start in range(0, int(wanted), CHUNK_BYTES):
            socket.send(peer, zmq.SNDMORE)
            socket.send(view[start : start + CHUNK_BYTES], copy=False)


def receive_plain(socket: "zmq.Socket[bytes]", into: NDArray[np.uint8], size: int) -> None:
    """The other end of it: ask, and copy each frame to its place."""
    socket.send(str(size).encode())
    for start in range(0, size, CHUNK_BYTES):
        frame = socket.recv(copy=False)
        np.copyto(into[start : start + CHUNK_BYTES], np.frombuffer(frame.buffer, np.uint8))


class NixlReader:
    """NIXL without us."""

    def __init__(self, array: NDArray[np.uint8], metadata: bytes) -> None:
        api = library()
        self._agent = api.nixl_agent("bench", api.nixl_agent_config(backends=["UCX"]))
        self._address = array.ctypes.data
        self._agent.register_memory([(self._address, array.nbytes, 0, "")], KIND)
        self._peer = self._agent.add_remote_agent(metadata).decode()

    def read(self, address: int, size: int) -> None:
        """One read, polled as fast as can be."""
        here, there = ([(start, size, 0)] for start in (self._address, address))
        descriptions = (self._agent.get_xfer_descs(each, KIND) for each in (here, there))
        transfer = self._agent.initialize_xfer("READ", *descriptions, self._peer)
        state = self._agent.transfer(transfer)
        while state == "PROC":
            state = self._agent.check_xfer_state(transfer)
        assert state == "DONE", state
        self._agent.release_xfer_handle(transfer)
