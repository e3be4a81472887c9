"""Shell. Discovery over a directory: each node writes one file and reads those of the others.

A file is written aside and renamed, so that a reader sees all of it or nothing of it; no locks, no file times. What the
files mean is for `sightings.Noticeboard`. On a shared file system the work is done in a thread, which may hang as long
as the server does; our own runtime directory is local and read directly.
"""

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar

from msgspec.structs import replace

from mesh.core import Found, Lost, Remark
from mesh.discovery import machine, sightings
from mesh.discovery.sightings import FILE_BYTES_MAX, Noticeboard, Outcome, Sieve
from proto.messages import Record

BEAT_S = 2.0
POLL_LOCAL_S = 0.1  # a listing costs microseconds
POLL_SHARED_S = 1.0  # a listing costs the file server a round trip for each node
SOCKETS_S = 10.0  # between two looks for sockets of dead nodes
STOP_S = 1.0

T = TypeVar("T")


class Folder:
    """One directory of one mesh."""

    def __init__(self, path: str, tags: Sequence[bytes], local: bool = False, sockets: bool = False) -> None:
        self.path = path
        self._tags = tags
        self._local = local  # ours and on this host: no thread
        self._sockets = sockets  # it also holds ipc sockets
        self._suspects: frozenset[str] = frozenset()
        self._task: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stopped = False

    async def start(
        self,
        record: Record,
        found: Callable[[Record], None],
        lost: Callable[[int], None],
        seed: Callable[[str], None],
        remark: Callable[[str, str], None],
    ) -> None:
        """Publish, look once, then go on in the background. Raises OSError if the directory cannot be used."""
        self._record = record
        self._board = Noticeboard(Sieve(record.node, record.mesh, self._tags))
        self._found, self._lost, self._remark = found, lost, remark
        self._now = asyncio.get_running_loop().time
        await self._run(self._prepare)
        await self._write()
        await self._look()
        self._task = machine.watched(asyncio.create_task(self._go_on(), name="discovery folder"))

    async def publish(self, record: Record) -> None:
        """Write the changed record now."""
        self._record = replace(record, beat=self._record.beat)
        await self._guarded(self._write())

    async def stop(self) -> None:
        """Remove our file; give up after STOP_S if the file system hangs."""
        if self._task is None:
            return
        self._stopped = True
        self._wake.set()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(STOP_S):
                await self._task
                await self._run(self._withdraw)
        self._task.cancel()

    def describe(self) -> str:
        """The directory, and how many nodes are in it."""
        sieve = self._board.sieve
        others = f", {sieve.stats['foreign']} sightings of other meshes" if sieve.stats["foreign"] else ""
        return f"directory {self.path} ({len(sieve)} other nodes{others})"

    async def _go_on(self) -> None:
        poll_s = POLL_LOCAL_S if self._local else POLL_SHARED_S
        beat_at = self._now() + BEAT_S
        sweep_at = self._now()
        while not self._stopped:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_s):
                    await self._wake.wait()
            if self._now() >= beat_at:
                beat_at = self._now() + BEAT_S
                await self._guarded(self._write())
            if self._sockets and self._now() >= sweep_at:
                sweep_at = self._now() + SOCKETS_S
                self._suspects = machine.sweep_sockets(self.path, self._suspects)
            await self._guarded(self._look())

    async def _guarded(self, step: Coroutine[None, None, None]) -> None:
        """A full or vanished file system is said once and tried again; it does not end discovery."""
        try:
            await step
        except OSError as error:
            for outcome in self._board.sieve.once("discovery.folder", f"directory {self.path}: {error.strerror}"):
                self._tell(outcome)

    async def _write(self) -> None:
        async with self._busy:
            if self._stopped:
                return
            self._record = replace(self._record, beat=self._record.beat + 1)
            await self._run(lambda: self._replace(sightings.write(self._record)))

    async def _look(self) -> None:
        """List, read what is new, tell what follows, remove what is dead."""
        async with self._busy:
            listing = await self._run(self._list)
            outcomes, names = self._board.look(listing, self._now())
            contents = await self._run(lambda: [(name, self._read(name)) for name in names])
            for name, content in contents:
                if content is not None:
                    outcomes += self._board.read(name, listing[name], content, self._now())
            more, remains = self._board.settle(self._now())
            await self._run(lambda: self._remove(*remains))
        for outcome in (*outcomes, *more):
            self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        match outcome:
            case Found(record):
                self._found(record)
            case Lost(node):
                self._lost(node)
            case Remark(topic, text):
                self._remark(topic, text)

    async def _run(self, work: Callable[[], T]) -> T:
        return work() if self._local else await _in_thread(work)

    # --- Blocking, perhaps in a thread -------------------------------------------------------------

    def _prepare(self) -> None:
        os.makedirs(self.path, 0o700, exist_ok=True)

    def _list(self) -> dict[str, int]:
        """The node files, with their inodes."""
        with os.scandir(self.path) as entries:
            return {entry.name: entry.inode() for entry in entries if sightings.node_of(entry.name)}

    def _read(self, name: str) -> bytes | None:
        """A file's content, or None if it is gone, unreadable or no file."""
        try:
            descriptor = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return os.read(descriptor, FILE_BYTES_MAX + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _replace(self, content: bytes) -> None:
        self._prepare()  # somebody may have removed all of it
        aside = f"{self.path}/.{sightings.file_of(self._record.node)}.new"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(aside, f"{self.path}/{sightings.file_of(self._record.node)}")

    def _withdraw(self) -> None:
        name = sightings.file_of(self._record.node)
        self._remove(name, f".{name}.new")

    def _remove(self, *names: str) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(f"{self.path}/{name}")


async def _in_thread(work: Callable[[], T]) -> T:
    """Run in a thread that nobody waits for at exit: a file server that hangs must not keep the process alive."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def call() -> None:
        try:
            outcome = (work(), None)
        except BaseException as error:  # Everything goes to who waits.
            outcome = (None, error)  # type: ignore[assignment]
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=call, name="discovery folder", daemon=True).start()
    return await done
