"""Shell. The tiers at work: memory for blocks, and threads that read and write, so that no engine and no loop waits.

One lock guards the core, and nobody holds it while bytes move. A thread that a disk or a network keeps for ever keeps
only the blocks that it has in hand: the core marks its tier, and everybody else goes on.
"""

import asyncio
import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from math import inf
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from msgspec import Struct

from nodes.contract.below import CopyOut
from nodes.contract.engine import BlockEvent
from nodes.metrics import Family
from nodes.tiers.arena import Arena
from nodes.tiers.core import Core
from nodes.tiers.counts import families
from nodes.tiers.files import shelf_of
from nodes.tiers.folder import FolderRefused, own, shared
from nodes.tiers.options import Asked, TierRefused
from nodes.tiers.shelves import DISK, FILES_MAX, HOST, STORE, TITLES, Block, Disk, Store
from nodes.tiers.work import Delete, Found, Lower, Read, Write
from nodes.transfer.layout import Layout

DISK_READERS = 2
STORE_READERS = 4  # a store answers late, but several at once
WRITERS = 1
CLOSE_S = 3.0  # to write what is queued when the worker leaves
JOIN_S = 1.0  # for what is being read or written then
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

log = logging.getLogger("wiremesh.tiers")


Told = list[tuple[int, list[BlockEvent]]]


class Place(Protocol):
    """Where blocks are: a folder or a bucket."""

    def read(self, name: int, parent: int, into: memoryview) -> Found: ...
    def write(self, name: int, parent: int, content: memoryview) -> int: ...
    def has(self, name: int, parent: int) -> bool: ...
    def delete(self, name: int, parent: int) -> None: ...
    def close(self) -> None: ...


class Below(Struct):
    """A tier below host memory, and who works for it."""

    place: Place
    readers: int
    reads: SimpleQueue[Read | None]
    writes: SimpleQueue[Write | Delete | None]
    scan: Iterator[list[tuple[int, int, int]]] | None = None


class Tiers:
    """Keeps the contract of `nodes.contract.below.Below`. Its methods may be called from any thread."""

    def __init__(self, core: Core, block_bytes: int, places: dict[int, Below]) -> None:
        self._core = core
        self._block_bytes = block_bytes
        self._places = places
        self._arena = Arena(core.host.slots * block_bytes)
        self._lock = threading.Lock()
        self._sooner = threading.Condition(self._lock)  # for the watch: there is an earlier deadline
        self._drained = threading.Condition(self._lock)  # for who waits until there is room in a queue
        self._has_told = False  # that there are events, since they were last taken
        self._news: Callable[[bool], None] | None = None
        self._copy_out: CopyOut | None = None
        self._closed = False
        self._wakes_at = inf  # when the watch looks again
        self._was_marked: dict[int, bool] = {}
        self._threads = [self._arena.thread, self._thread("watch", self._watch)]
        for number, below in places.items():
            title = TITLES[number]
            self._threads += [self._thread(f"{title}-read", self._read, below) for _ in range(below.readers)]
            self._threads += [self._thread(f"{title}-write", self._write, below) for _ in range(WRITERS)]

    @property
    def levels(self) -> int:
        """Of what routers are told: the device, host memory, perhaps a disk."""
        return 3 if DISK in self._places else 2

    @property
    def blocks(self) -> int:
        """How many there can be in the tiers that are ours alone."""
        disks = [tier.index.bytes_max // self._block_bytes for tier in self._core.lower if isinstance(tier.index, Disk)]
        return self._core.host.slots + min(FILES_MAX, sum(disks))

    # --- The engine's side -------------------------------------------------------------------------------------

    def attach(self, copy_out: CopyOut) -> None:
        self._copy_out = copy_out

    def seek(self, key: Hashable, parent: int, hashes: Sequence[int], here: int) -> None:
        with self._changing(is_engine=True):
            self._core.seek(key, parent, hashes, here, time.monotonic())

    def waits(self, key: Hashable) -> bool:
        with self._lock:
            return self._core.waits(key)

    def ready(self, key: Hashable, hashes: Sequence[int]) -> list[memoryview]:
        with self._changing(is_engine=True):
            return [self._bytes(block) for block in self._core.ready(key, hashes, time.monotonic())]

    def leave(self, key: Hashable) -> None:
        with self._lock:
            self._core.leave(key)

    def used(self, parent: int, hashes: Sequence[int], blocks: Sequence[int]) -> None:
        with self._changing(is_engine=True):
            wanted = self._core.used(parent, hashes, time.monotonic())
        for position, block in reversed(wanted):  # as a cache does it: of a prompt the end is older
            self._copy(blocks[position], block)

    def spill(self, name: int, parent: int, block: int) -> None:
        with self._lock:
            wanted = self._core.spill(name, parent)
        if wanted is not None:
            self._copy(block, wanted)

    def flush(self, blocks: Sequence[tuple[int, int, int]]) -> None:
        until = time.monotonic() + CLOSE_S
        for name, parent, block in blocks:
            with self._lock:
                if not self._core.behind.is_popular(name):
                    continue
                while self._core.host.is_full and not self._has_written():
                    if not self._drained.wait(max(0.0, until - time.monotonic())):
                        return
            self.spill(name, parent, block)

    def _copy(self, source: int, block: Block) -> None:
        assert self._copy_out is not None, "attach it first"
        try:
            self._copy_out(source, self._bytes(block))
        except BaseException:
            with self._lock:
                self._core.lost(block)
            raise
        with self._changing(is_engine=True):
            self._core.kept(block, time.monotonic())

    # --- The worker's side -------------------------------------------------------------------------------------

    def bind(self, loop: asyncio.AbstractEventLoop, told: Callable[[Told], None], stir: Callable[[], None]) -> None:
        """Call these in this loop: when tiers have gained or lost blocks, and when a job need not wait any more."""

        def news(has_arrived: bool) -> None:
            if changes := self.events():
                told(changes)
            if has_arrived:
                stir()

        self.on_news(lambda has_arrived: None if loop.is_closed() else _call(loop, news, has_arrived))

    def on_news(self, news: Callable[[bool], None]) -> None:
        """Call this, from any thread, when there are events, or when (True) a job need not wait any more."""
        with self._lock:
            self._news = news
            self._core.tell()
            has_events = self._core.has_events
            self._has_told = has_events
        if has_events:
            news(False)

    def events(self) -> Told:
        """What host memory (1) and disk (2) have gained and lost since the last time."""
        with self._lock:
            self._has_told = False
            return self._core.events()

    def families(self) -> list[Family]:
        """Metrics."""
        with self._lock:
            core, now = self._core, time.monotonic()
            used = {HOST: core.host.used * self._block_bytes}
            evictions = {HOST: core.host.evictions}
            for tier in core.lower:
                if isinstance(tier.index, Disk):
                    used[DISK], evictions[DISK] = tier.index.bytes, tier.index.evictions
            marked = {tier.number: tier.is_marked(now) for tier in core.lower}
            return families(core.counts, used, evictions, marked, core.waits_over)

    def facts(self) -> dict[str, Any]:
        """For a worker's status."""
        with self._lock:
            now = time.monotonic()
            said: dict[str, Any] = {"host": {"blocks": self._core.host.used, "room": self._core.host.slots}}
            for tier in self._core.lower:
                said[TITLES[tier.number]] = {
                    "marked": tier.is_marked(now),
                    "trouble": tier.reading.trouble or tier.writing.trouble,
                    "unwritten": len(tier.queued) + len(tier.late),
                }
                if isinstance(tier.index, Disk):
                    said["disk"]["blocks"] = len(tier.index.files)
            return said

    def close(self) -> None:
        """Write what is queued, as far as there is time for it, and end. Twice is once."""
        with self._lock:
            if self._closed:
                return
            self._drained.wait_for(self._has_written, CLOSE_S)
            self._closed = True
            self._sooner.notify_all()
        self._arena.close()
        for below in self._places.values():
            below.writes.put(None)
            for _ in range(below.readers):
                below.reads.put(None)
        until = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            for below in self._places.values():
                below.place.close()

    def check(self) -> None:
        """Assert all invariants."""
        with self._lock:
            self._core.check()

    # --- Inside --------------------------------------------------------------------------------------------------

    def _has_written(self) -> bool:
        return self._core.behind.has_written(time.monotonic())

    def _bytes(self, block: Block) -> memoryview:
        start = block.slot * self._block_bytes
        return self._arena.view[start : start + self._block_bytes]

    def _thread(self, title: str, run: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=run, args=arguments, name=f"tiers-{title}", daemon=True)
        thread.start()
        return thread

    @contextlib.contextmanager
    def _changing(self, is_engine: bool = False) -> Iterator[None]:
        """Change the core, and see to what comes of it. The engine's own changes are no news to it."""
        with self._lock:
            yield
            for effect in self._core.take_effects():
                below = self._places[effect.tier]
                if type(effect) is Read:
                    below.reads.put(effect)
                else:
                    below.writes.put(effect)  # type: ignore[arg-type]
            if self._core.deadline() < self._wakes_at:
                self._sooner.notify()
            has_more = self._core.has_events and not self._has_told
            has_arrived = self._core.is_news and not is_engine
            self._has_told |= has_more
            self._core.is_news &= is_engine
            news = self._news if has_more or has_arrived else None
        self._arena.reach(self._core.host.reached * self._block_bytes)
        if news is not None:
            news(has_arrived)

    def _watch(self) -> None:
        """Nobody waits too long, whatever the others hang in."""
        while not self._closed:
            with self._changing():
                self._core.tick(time.monotonic())
                self._tell_marks()
            with self._lock:
                self._wakes_at = self._core.deadline()
                if not self._closed:
                    self._sooner.wait(None if self._wakes_at == inf else max(0.0, self._wakes_at - time.monotonic()))
                self._wakes_at = -inf

    def _tell_marks(self) -> None:
        now = time.monotonic()
        for tier in self._core.lower:
            is_marked = tier.is_marked(now)
            if is_marked and not self._was_marked.get(tier.number):
                trouble = tier.reading.trouble or tier.writing.trouble
                log.warning("the %s tier is left alone for a while: %s", TITLES[tier.number], trouble)
            self._was_marked[tier.number] = is_marked

    # --- The threads that read and write ---------------------------------------------------------------------------

    def _read(self, below: Below) -> None:
        while (work := below.reads.get()) is not None:
            found, trouble = self._found(below.place, work)
            with self._changing():
                self._core.read(work, found, time.monotonic(), trouble)
                self._tell_marks()

    def _found(self, place: Place, work: Read) -> tuple[list[Found], str]:
        found: list[Found] = []
        trouble = ""
        for block in work.blocks:
            try:
                outcome = place.read(block.name, block.parent, self._bytes(block))
            except OSError as error:
                outcome, trouble = Found.FAILED, str(error) or type(error).__name__
            found.append(outcome)
            if outcome is not Found.HERE:
                trouble = trouble or f"block {block.name:016x} is {outcome}"
                if outcome is Found.CORRUPT:
                    place.delete(block.name, block.parent)
                break
        return found + [Found.UNTRIED] * (len(work.blocks) - len(found)), trouble

    def _write(self, below: Below) -> None:
        if below.scan is not None:
            for files in below.scan:
                if self._closed:
                    break
                with self._changing():
                    self._core.scanned(DISK, files)
                self._write_queued(below)
        while (work := below.writes.get()) is not None:
            self._write_one(below.place, work)

    def _write_queued(self, below: Below) -> None:
        while not below.writes.empty():
            work = below.writes.get()
            if work is None:
                below.writes.put(None)
                return
            self._write_one(below.place, work)

    def _write_one(self, place: Place, work: Write | Delete) -> None:
        if type(work) is Delete:
            for name, parent in work.files:
                place.delete(name, parent)
            return
        assert type(work) is Write
        block = work.block
        with self._changing():
            is_wanted = self._core.behind.begun(work, time.monotonic())
            self._drained.notify_all()
        if not is_wanted:
            return
        size, trouble, is_full = 0, "", False
        try:
            if work.tier == STORE and place.has(block.name, block.parent):
                size = self._block_bytes
            else:
                size = place.write(block.name, block.parent, self._bytes(block))
        except OSError as error:
            trouble, is_full = str(error) or type(error).__name__, error.errno in FULL
        with self._changing():
            self._core.behind.written(work, size, time.monotonic(), trouble, is_full)
            self._tell_marks()
            self._drained.notify_all()


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[bool], None], has_arrived: bool) -> None:
    with contextlib.suppress(RuntimeError):  # it closes at this very moment
        loop.call_soon_threadsafe(callback, has_arrived)


def open_tiers(asked: Asked, layout: Layout, model: str, flavour: str) -> Tiers:
    """The tiers that were asked for; `model` and `flavour`: what blocks must have in common. Raises TierRefused."""
    block_bytes = layout.block_bytes
    slots = asked.host_bytes // block_bytes
    if not slots:
        raise TierRefused(f"{asked.host_bytes} bytes of host memory are less than one block of {block_bytes} bytes")
    shelf = shelf_of(model, flavour, layout)
    lower: list[Lower] = []
    places: dict[int, Below] = {}
    try:
        if asked.disk:
            folder = own(Path(asked.disk).expanduser(), shelf, block_bytes)
            lower.append(Lower(DISK, Disk(asked.disk_bytes), DISK_READERS))
            places[DISK] = Below(folder, DISK_READERS, SimpleQueue(), SimpleQueue(), folder.scan())
        if asked.directory or asked.bucket is not None:
            store: Place
            if asked.bucket is not None:
                from nodes.tiers.bucket import Bucket, credentials  # TLS takes time to load, and few need it

                store = Bucket(asked.bucket, shelf, credentials())
            else:
                store = shared(Path(asked.directory).expanduser(), shelf, block_bytes)
            lower.append(Lower(STORE, Store(), STORE_READERS))
            places[STORE] = Below(store, STORE_READERS, SimpleQueue(), SimpleQueue())
    except FolderRefused as error:
        raise TierRefused(str(error)) from None
    try:
        return Tiers(Core(slots, block_bytes, asked.uses, lower), block_bytes, places)
    except (OSError, OverflowError, MemoryError) as error:
        raise TierRefused(f"{asked.host_bytes} bytes of host memory cannot be had: {error}") from None
