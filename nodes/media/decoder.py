"""Shell. Decodes parts in processes apart: killed when they take too long, started anew when they die."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh import process
from nodes.contract.media import AUDIO, IMAGE, VIDEO
from nodes.media import limits
from nodes.media.content import MediaRefused
from nodes.media.wanted import Answered, Wanted, expected, framed, read_answered

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = (sys.executable, "-P", "-m", "nodes.media.decoding")
PROCESSES = 2  # a part that takes long must not hold up all others
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def reads(kind: str) -> bool:
    """Whether what is installed here can decode any part of a kind."""
    return kind == AUDIO or (kind in (IMAGE, VIDEO) and importlib.util.find_spec("PIL") is not None)


class Crashed(Exception):
    """The process has ended in the middle of a part."""


class Child:
    """One process, and its two pipes."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen

    @classmethod
    async def start(cls) -> "Child":
        """Start one. It gets nothing of our environment but where to find its modules."""
        # Nobody's keys are in there; a library's own threads would only cost memory.
        environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ.get("PATH", ""), **ONE_THREAD}
        pipe = subprocess.PIPE
        made = cls(process.spawn(COMMAND, environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL))
        await made._connect()
        return made

    async def _connect(self) -> None:
        loop, popen = asyncio.get_running_loop(), self._popen
        reader = asyncio.StreamReader(limit=limits.HEADER_BYTES_MAX)
        ends, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), popen.stdout)
        begins, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, popen.stdin)
        self._reader = reader
        self._writer = asyncio.StreamWriter(begins, protocol, None, loop)
        self._ends = ends

    async def ask(self, wanted: Wanted, data: bytes | memoryview) -> tuple[Answered, bytes]:
        """One part. Raises Crashed."""
        try:
            self._writer.write(framed(wanted))
            self._writer.write(data)
            await self._writer.drain()
            size = int.from_bytes(await self._reader.readexactly(4), "little")
            if size > limits.HEADER_BYTES_MAX:
                raise Crashed
            answered = read_answered(await self._reader.readexactly(size))
            expected(wanted, answered)
            return answered, await self._reader.readexactly(0 if wanted.measure else answered.size)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            if isinstance(error, MediaRefused):
                raise
            raise Crashed from None

    def kill(self) -> None:
        """End it, and wait for its last breath: a killed process takes a millisecond."""
        if not self._writer.is_closing():  # one that died has closed it
            self._writer.transport.abort()  # what was not written yet is for nobody
        self._ends.close()  # both close their pipes themselves, a turn later
        with suppress(ProcessLookupError):
            self._popen.kill()
        self._popen.wait()


class Decoder:
    """Some such processes. They are started when they are needed."""

    def __init__(self, processes: int = PROCESSES, timeout_s: float = limits.DECODE_S) -> None:
        self._room = asyncio.Semaphore(processes)
        self._timeout_s = timeout_s
        self._idle: list[Child] = []
        self._busy: dict[Child, None] = {}
        self._closed = False
        self._waiting = 0
        self.figures = {"decoded": 0, "refused": 0, "killed": 0}

    async def warm(self) -> None:
        """Start one before it is needed: the first part need not wait for its libraries."""
        if not self._idle and not self._busy:
            self._idle.append(await Child.start())

    async def decode(self, wanted: Wanted, data: bytes | memoryview) -> NDArray[Any]:
        """A part as an array. Raises MediaRefused."""
        answered, raw = await self._ask(wanted, data)
        kind = np.float32 if wanted.kind == AUDIO else np.uint8
        return np.frombuffer(raw, kind).reshape(answered.shape)

    async def measure(self, wanted: Wanted, data: bytes | memoryview) -> int:
        """How many samples a sound has. Raises MediaRefused."""
        answered, _ = await self._ask(wanted, data)
        return answered.shape[0] if answered.shape else 0

    async def _ask(self, wanted: Wanted, data: bytes | memoryview) -> tuple[Answered, bytes]:
        if self._waiting >= limits.QUEUE_MAX:
            raise MediaRefused("too many parts wait to be decoded: try again later")
        self._waiting += 1
        try:
            async with self._room:
                return await self._turn(wanted, data)
        except MediaRefused:
            self.figures["refused"] += 1
            raise
        finally:
            self._waiting -= 1

    async def _turn(self, wanted: Wanted, data: bytes | memoryview) -> tuple[Answered, bytes]:
        """One part, in a process that is whole before and after it, or is ended."""
        child = self._idle.pop() if self._idle else await Child.start()
        self._busy[child] = None
        whole = False
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await child.ask(wanted, data)
            whole = True
            self.figures["decoded"] += 1
            return found
        except MediaRefused:
            whole = True
            raise
        except TimeoutError:
            raise MediaRefused(f"decoding it takes longer than {self._timeout_s:g} seconds") from None
        except Crashed:
            raise MediaRefused("decoding it takes more time or memory than there is for one part") from None
        finally:
            del self._busy[child]
            if whole and not self._closed:
                self._idle.append(child)
            else:
                self.figures["killed"] += not whole
                child.kill()

    def close(self) -> None:
        """End them; those that are busy end with what they do."""
        self._closed = True
        while self._idle:
            self._idle.pop().kill()
