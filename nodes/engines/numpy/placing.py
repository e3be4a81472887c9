"""Shell. The rows of pictures and sounds among those of a step: where they go, and what is wrong if they cannot."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nodes.contract.media import misplaced, pieces
from nodes.engines.scheduler import Part, Plan, Running

Floats = NDArray[np.float32]


def parts_of(plan: Plan) -> list[Part]:
    """All that a step computes; the heads are the ends of their sequences, in this order."""
    return [Part(running, len(running.tokens) - 1, 1) for running in plan.decoding] + plan.parts


def placed(part: Part, row: int) -> list[tuple[int, Floats]]:
    """Embeddings for rows of a part that begins at `row`: each with its first."""
    found = pieces(part.running.job.media, part.start, part.start + part.count)
    return [(row + one.position - part.start, one.media.embedding[one.first : one.last]) for one in found]


def lacking(plan: Plan, width: int) -> list[tuple[Running, str]]:
    """Whose step cannot be computed because an embedding has not come, or is none, and what to say of it."""
    found = []
    for part in parts_of(plan):
        job = part.running.job
        needed = pieces(job.media, part.start, part.start + part.count)
        text = misplaced(job.media, len(job.prompt), width) if needed else ""
        for piece in needed:
            if piece.media.embedding is None:
                text = f"an embedding has not come for positions {piece.media.first} to {piece.media.end}"
        if text:
            found.append((part.running, text))
    return found


def without(plan: Plan, lost: Sequence[Running]) -> Plan:
    """What is left of a plan."""
    orders = {running.order for running in lost}
    decoding = [running for running in plan.decoding if running.order not in orders]
    heads = [running for running in plan.heads if running.order not in orders]
    return Plan(decoding, [part for part in plan.parts if part.running.order not in orders], heads)
