"""Pure. Which instance gets a request: functions of a snapshot. A policy keeps no state but the cursor it is handed."""

from collections.abc import Callable, Sequence
from random import Random

from msgspec import Struct


class Candidate(Struct, gc=False):
    """An instance that may take new work."""

    node: int
    running: int  # by its own last report
    waiting: int
    mine: int  # legs of ours there, younger than that report may be


def load(candidate: Candidate) -> int:
    """What least-loaded compares. Our own legs count twice where the report knows them: better too shy than a herd."""
    return candidate.running + candidate.waiting + candidate.mine


def round_robin(candidates: Sequence[Candidate], last: int, random: Random) -> int:
    """The next node id after the last one, around the circle: nodes that come and go do not disturb the order."""
    return min((candidate.node <= last, candidate.node) for candidate in candidates)[1]


def at_random(candidates: Sequence[Candidate], last: int, random: Random) -> int:
    """Any."""
    return random.choice(candidates).node


def least_loaded(candidates: Sequence[Candidate], last: int, random: Random) -> int:
    """The least busy; a tie goes to the next one around the circle, so that equals share."""
    return min((load(candidate), candidate.node <= last, candidate.node) for candidate in candidates)[2]


def power_of_two(candidates: Sequence[Candidate], last: int, random: Random) -> int:
    """The less busy of two at random: nearly as even as the least loaded, and no herd runs to one node."""
    return least_loaded(random.sample(candidates, min(2, len(candidates))), last, random)


POLICIES: dict[str, Callable[[Sequence[Candidate], int, Random], int]] = {
    "round_robin": round_robin,
    "random": at_random,
    "power_of_two": power_of_two,
    "least_loaded": least_loaded,
    "direct": round_robin,  # the caller has narrowed the candidates to one
}
