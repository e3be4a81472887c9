"""Pure. Full jitter: a random time between zero and a bound that doubles with every failure."""

from random import Random

from proto import limits

DOUBLINGS_MAX = 16  # 0.05 s * 2**16 is far beyond the cap; the shift must not grow for ever


def backoff_s(failures: int, random: Random) -> float:
    """How long to wait after this many failures in a row."""
    bound = limits.BACKOFF_BASE_S * (1 << min(failures, DOUBLINGS_MAX))
    return random.uniform(0.0, min(bound, limits.BACKOFF_MAX_S))
