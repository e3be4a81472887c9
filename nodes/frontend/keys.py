"""Pure. API keys: who may use this frontend, and how much of it.

A key is looked up by a hash under a secret of this process: how long that takes tells nothing about the keys. Names of
keys appear in logs; the keys themselves nowhere.
"""

from collections.abc import Mapping
from hashlib import blake2b
from math import inf

from msgspec import Struct

from nodes.frontend import limits


class KeysRefused(ValueError):
    """A file of keys that cannot be used. Its text says what is wrong and holds no key."""


class Keyring:
    """The keys of one file. `secret` is random and this process's own."""

    def __init__(self, names: Mapping[str, str], secret: bytes) -> None:
        self._secret = secret
        self._names = {self._hash(key): name for key, name in names.items()}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, key: str) -> str | None:
        """Whose key it is; None for one that opens nothing."""
        return self._names.get(self._hash(key)) if len(key) <= limits.KEY_CHARS_MAX else None

    def _hash(self, key: str) -> bytes:
        return blake2b(key.encode("utf-8", "surrogateescape"), key=self._secret, digest_size=32).digest()


def parse(content: bytes, place: str) -> dict[str, str]:
    """Names by key, of a file with one `name:key` or `key` on each line. Raises KeysRefused."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise KeysRefused(f"{place} is not UTF-8 text: write one `name:key` on each line") from None
    names: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, key = line.partition(":")
        name, key = (name.strip(), key.strip()) if colon else (f"key{number}", line)
        if not key or not key.isprintable() or " " in key or len(key) > limits.KEY_CHARS_MAX:
            raise KeysRefused(f"{place}, line {number} is no key: write `name:key` or a key alone, without spaces")
        if key in names:
            raise KeysRefused(f"{place}, line {number}: the same key stands twice")
        names[key] = name
    if not names:
        raise KeysRefused(f"{place} holds no key: write one `name:key` on each line")
    if len(names) > limits.KEYS_MAX:
        raise KeysRefused(f"{place} holds {len(names)} keys, {limits.KEYS_MAX} is the most: remove some")
    return names


class Usage(Struct):
    """What one key has under way, and how many requests it may begin at once."""

    tokens: float
    filled: float  # when `tokens` was right
    running: int = 0


class Quotas:
    """Rate and concurrency of each key; a limit of 0 is none."""

    def __init__(self, per_s: float = 0.0, running_max: int = 0) -> None:
        self._per_s = per_s
        self._burst = max(1.0, per_s)
        self._running_max = running_max
        self._usage: dict[str, Usage] = {}
        self.limited = bool(per_s or running_max)

    def begin(self, name: str, now: float) -> float:
        """One more request of this key: 0.0, or after how many seconds to try again."""
        if not self.limited:
            return 0.0
        usage = self._usage.get(name)
        if usage is None:
            usage = self._usage[name] = Usage(self._burst, now)
        if self._running_max and usage.running >= self._running_max:
            return 1.0
        if self._per_s:
            usage.tokens = min(self._burst, usage.tokens + (now - usage.filled) * self._per_s)
            usage.filled = now
            if usage.tokens < 1.0:
                return (1.0 - usage.tokens) / self._per_s
            usage.tokens -= 1.0
        usage.running += 1
        return 0.0

    def end(self, name: str) -> None:
        """A request that had begun is over."""
        if self.limited:
            self._usage[name].running -= 1


class Admission:
    """How many sequences may be in flight, and when there will be room again."""

    def __init__(self, streams_max: int) -> None:
        self._max = streams_max
        self.streams = 0
        self._ended = -inf
        self._every_s = 0.0  # between two ends, smoothed

    def begin(self, streams: int) -> float:
        """Take room: 0.0, or after how many seconds to try again."""
        if self.streams and self.streams + streams > self._max:
            excess = self.streams + streams - self._max
            return min(max(excess * self._every_s, 0.1), 30.0)
        self.streams += streams
        return 0.0

    def end(self, streams: int, now: float) -> None:
        """Give room back."""
        self.streams -= streams
        if self._ended > -inf:
            every_s = (now - self._ended) / streams
            self._every_s += (every_s - self._every_s) / 16
        self._ended = now
