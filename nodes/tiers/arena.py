"""Shell. The memory that blocks are in while they are in no engine.

The system gives it as it is used, and the first touch of a page can cost more than copying a block there; an engine
would pay for it between two steps. So a thread stays a little ahead of what is used, and no more is taken than that.
"""

import contextlib
import ctypes
import mmap
import threading

AHEAD_BYTES = 64 << 20
STEP_BYTES = 4 << 20
POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, of Linux 5.14: touches pages and leaves what is in them


class Arena:
    """So many bytes."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.view = memoryview(self._memory)
        self._size = size
        self._wanted = 0
        self._touched = 0
        self._changed = threading.Condition()
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._closed = False
        self.thread = threading.Thread(target=self._touch, name="tiers-touch", daemon=True)
        self.thread.start()
        self.reach(0)

    def reach(self, used: int) -> None:
        """So many bytes are used. Cheap, most of the time."""
        wanted = min(used + AHEAD_BYTES, self._size)
        if wanted >= min(self._wanted + STEP_BYTES, self._size) and wanted > self._wanted:
            with self._changed:
                self._wanted = wanted
                self._changed.notify()

    def close(self) -> None:
        """Stay ahead no longer. The memory lives as long as somebody looks at it."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _touch(self) -> None:
        advise = getattr(ctypes.CDLL(None), "madvise", None)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        while advise is not None:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wanted > self._touched)
                if self._closed:
                    return
            count = min(STEP_BYTES, self._size - self._touched)
            if advise(ctypes.c_void_p(begin + self._touched), ctypes.c_size_t(count), POPULATE_WRITE):
                return  # it cannot be done here: each page is given when it is touched
            self._touched += count
