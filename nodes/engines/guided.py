"""Shell. Jobs under a guide, in engines with our scheduler: who waits for it to be read, and what it allows."""

from collections.abc import Sequence
from concurrent.futures import wait

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.contract.engine import Ending, Output
from nodes.engines.running import Plan, Running
from nodes.guiding.following import Following, Guides, Lost
from nodes.guiding.library import GuideRefused

Bools = NDArray[np.bool_]
WAIT_S = 0.02  # of an engine that can do nothing before a guide was read: then it looks for what else has come


class Left(Struct):
    """Who gets no token now: for good if it has an ending, else because its guide is still being read."""

    running: Running
    ending: Ending | None = None
    text: str = ""


def following(guides: Guides, running: Running) -> Following | None:
    """A sequence under its guide."""
    if running.guided is None and running.job.guide is not None:
        running.guided = guides.follow(running.job.guide, len(running.job.prompt))
    found: Following | None = running.guided
    return found


def late(guides: Guides, plan: Plan) -> list[Running]:
    """Those who could get a token but for their guide. Waits a little if the plan has nothing else to do."""
    found = [(one, under) for one in plan.decoding if (under := following(guides, one)) is not None and not under.ready]
    if found and len(found) == len(plan.decoding) and not plan.parts:
        wait([under.read for _, under in found], WAIT_S, "FIRST_COMPLETED")
    return [running for running, _ in found]


def masks(guides: Guides, heads: Sequence[Running]) -> tuple[dict[int, Bools], list[Left]]:
    """What each row may be, of those that have a guide; and who gets no token."""
    allowed: dict[int, Bools] = {}
    left: list[Left] = []
    for row, running in enumerate(heads):
        under = following(guides, running)
        if under is None:
            continue
        if not under.ready:
            left.append(Left(running))
            continue
        try:
            allowed[row] = under.allowed(running.tokens)
        except GuideRefused as refused:
            left.append(Left(running, Ending.REFUSED, str(refused)))
        except Lost as lost:
            left.append(Left(running, Ending.FAILED, str(lost)))
    return allowed, left


def kept_back(running: Running, banned: Sequence[int], eos_tokens: Sequence[int]) -> Sequence[int]:
    """What may not come while its guide allows anything else."""
    return [*banned, *eos_tokens] if running.job.ignore_eos else banned


def let_end(running: Running, token: int, eos_tokens: Sequence[int]) -> None:
    """Its guide is at its end: so is the sequence, even one that was to ignore that, or to be longer."""
    if token in eos_tokens:
        running.stops |= {token}
        running.stops_from = 0


def told(left: Sequence[Left]) -> list[Output]:
    """What their first token would have told of those who wait."""
    outputs = []
    for running in (one.running for one in left if one.ending is None):
        if running.cached and not running.reported:
            outputs.append(Output(running.key, cached_tokens=running.cached))
            running.reported = True
    return outputs
