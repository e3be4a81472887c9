"""Shell. NIXL, where it is installed: NVIDIA's transfer library, which finds RDMA, GPU memory, or just another process.

It is never required. `pip install nixl`, or on a machine without GPU `pip install --no-deps nixl-cu12`. Reads are
one-sided: the owner's process takes no part, and we look at the generation by reading its word of the ledger after the
bytes. UCX, its transport, opens sockets that know nothing of the mesh key: so NIXL is used only where it was asked for.
"""

import logging
import os
import sys
import time
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from nodes.transfer import limits
from nodes.transfer.handle import Remote
from nodes.transfer.memory import Memory, Unreachable, wrap
from nodes.transfer.mover import Job
from nodes.transfer.pieces import pair

PACKAGES = ("nixl", "nixl_cu13", "nixl_cu12")  # the first one chooses between the others
POLL_S = 0.00005  # between two looks at a read: it has no event
LOOKS_MIN = 200  # without a pause: a small read is over by then
RELEASE_S = 5.0  # for a read that was stopped to let go
READ_S = 60.0  # for one step: a megabyte per second is no transport
KIND = "DRAM"


def library() -> Any:
    """The module of NIXL that is installed; None without one."""
    os.environ.setdefault("UCX_LOG_FILE", "stderr")  # standard output is ours
    for package in PACKAGES:
        if find_spec(package) is not None:
            with suppress(ImportError):  # the first one may be there without the other two
                api = import_module(f"{package}._api")
                _quiet(package)
                return api
    return None


def find(plane: int) -> "NixlAgent | None":
    """An agent, if NIXL is here and works."""
    api = library()
    if api is None:
        return None
    try:
        return NixlAgent(plane, api)
    except Exception as error:  # Its errors have no common parent but this.
        logging.getLogger("wiremesh").warning("NIXL is installed, but does not work here: %s", error)
        return None


def _quiet(package: str) -> None:
    """NIXL logs to standard output, too."""
    for logger in map(logging.getLogger, ("nixl", package)):
        logger.setLevel(logging.WARNING)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)


class NixlAgent:
    """Our end of NIXL; reading is done by the copying thread."""

    def __init__(self, plane: int, api: Any) -> None:
        strict = api.nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT  # two threads of ours use it
        config = api.nixl_agent_config(enable_prog_thread=True, backends=["UCX"], sync_mode=strict)
        self.name = f"wiremesh-{plane:016x}"
        self._agent = api.nixl_agent(self.name, config)
        self._metadata = b""
        self._peers: dict[int, tuple[bytes, str]] = {}  # by plane: what it said, and its name
        self._word = np.zeros(1, np.uint64)
        self._word_registration = self._register(self._word.view(np.uint8))

    # --- In the event loop ---

    def register(self, known: Memory) -> None:
        """Make memory known; what it says of itself changes with it."""
        known.registration = self._register(known.array)
        self._metadata = b""

    def deregister(self, known: Memory) -> None:
        """The memory goes."""
        self._agent.deregister_memory(known.registration)
        known.registration = None
        self._metadata = b""

    def describe(self, known: Memory, ledger: Memory, slot: int) -> Remote | None:
        """What a handle says, if the memory is known and the description is not too long."""
        if not self._metadata:
            self._metadata = bytes(self._agent.get_agent_metadata())
        if known.registration is None or len(self._metadata) > limits.NAME_BYTES_MAX:
            return None
        word = _address(ledger.array) + 8 * slot
        return Remote(self.name, self._metadata, _address(known.array), word, 0, KIND)

    def _register(self, array: Any) -> object:
        return self._agent.register_memory([(_address(array), array.nbytes, 0, "")], KIND)

    # --- In the copying thread ---

    def step(self, job: Job, stop: int) -> None:
        """Read the bytes, as scattered as they are."""
        remote = job.handle.remote
        assert remote is not None
        copies = np.array(list(pair(job.source, job.target, job.position, stop)), np.uint64).reshape(-1, 3)
        there, here = np.zeros((2, len(copies), 3), np.uint64)
        there[:, 0], there[:, 1], there[:, 2] = copies[:, 0] + np.uint64(remote.memory), copies[:, 2], remote.device
        here[:, 0], here[:, 1] = copies[:, 1] + np.uint64(_address(job.memory.array)), copies[:, 2]
        self._read(job, here, there)

    def generation(self, job: Job) -> int:
        """Read the offer's word. It is a read of its own, begun when the bytes are here."""
        remote = job.handle.remote
        assert remote is not None
        here = np.array([[_address(self._word.view(np.uint8)), 8, 0]], np.uint64)
        there = np.array([[remote.word, 8, 0]], np.uint64)
        self._read(job, here, there)
        return int(self._word[0])

    def forget(self, plane: int) -> None:
        """Close what leads there."""
        said = self._peers.pop(plane, None)
        if said is not None:
            with suppress(RuntimeError):  # it may have left by itself
                self._agent.remove_remote_agent(said[1])

    def close(self) -> None:
        """Give back everything."""
        for plane in list(self._peers):
            self.forget(plane)

    def _peer(self, job: Job) -> str:
        remote, plane = job.handle.remote, job.handle.plane
        assert remote is not None
        said = self._peers.get(plane)
        if said is not None and said[0] == remote.metadata:
            return said[1]
        if said is not None:
            self.forget(plane)  # it has registered more since
        name = self._agent.add_remote_agent(remote.metadata)
        name = name.decode() if isinstance(name, bytes) else name
        self._peers[plane] = (remote.metadata, name)
        return str(name)

    def _read(self, job: Job, here: Any, there: Any) -> None:
        agent = self._agent
        try:
            peer = self._peer(job)
            transfer = agent.initialize_xfer(
                "READ", agent.get_xfer_descs(here, KIND), agent.get_xfer_descs(there, KIND), peer
            )
        except Exception as error:  # Its errors have no common parent but this.
            raise Unreachable(f"NIXL cannot reach {job.handle.name}: {error}") from None
        try:
            state = agent.transfer(transfer)
            state = self._wait(job, transfer, state)
        except Exception as error:
            state = str(error)
        finally:
            self._release(job, transfer)
        if state != "DONE":
            raise Unreachable(f"NIXL could not read {job.handle.name}: {state}")

    def _wait(self, job: Job, transfer: Any, state: str) -> str:
        looks, end = 0, time.monotonic() + READ_S
        while state == "PROC" and not job.halted and time.monotonic() < end:
            looks += 1
            if looks > LOOKS_MIN:
                time.sleep(POLL_S)
            state = self._agent.check_xfer_state(transfer)
        return state

    def _release(self, job: Job, transfer: Any) -> None:
        """Not before this returns is our memory ours again: what cannot be stopped is waited for."""
        end = time.monotonic() + RELEASE_S
        while time.monotonic() < end:
            try:
                self._agent.release_xfer_handle(transfer)
                return
            except Exception:
                time.sleep(POLL_S)
        self.forget(job.handle.plane)


def _address(array: Any) -> int:
    return int(wrap(array).ctypes.data)
