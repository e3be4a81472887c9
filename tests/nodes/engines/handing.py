"""What the tests of handing over share: memory to hand over in, and a stream that goes from engine to engine."""

from typing import Any

from msgspec import structs

from nodes.contract.engine import Card, Job, Output
from nodes.transfer.layout import Layout, blocks_needed, reorder
from tests.nodes.engines.models import collect, run


def room(layout: Layout, positions: int) -> memoryview:
    """Blocks for so many positions, filled with what is none of them."""
    return memoryview(bytearray(b"\xee" * (-(-positions // layout.block_tokens) * layout.block_bytes)))


def carried(source: memoryview, theirs: Layout, ours: Layout) -> memoryview:
    """Blocks of theirs as blocks of ours, moved as the data plane would."""
    blocks = len(source) // theirs.block_bytes
    found = memoryview(bytearray(blocks_needed(theirs, ours, blocks) * ours.block_bytes))
    start = 0
    for position, length in reorder(theirs, ours, blocks):
        found[position : position + length] = source[start : start + length]
        start += length
    return found


def prefilled(engine: Any, card: Card, job: Job) -> tuple[Output, memoryview]:
    """What a prefill worker makes of a job: one token, and the blocks of all before it."""
    assert card.layout is not None
    sequence = len(job.prompt) + len(job.generated)
    out = room(card.layout, sequence)
    assert engine.submit(structs.replace(job, max_tokens=min(job.max_tokens, len(job.generated) + 1), out=out)) is None
    return run(engine)[job.key], out


def advanced(engine: Any, steps: int, found: dict[Any, Output]) -> int:
    """Some steps of an engine; how many positions it prefilled."""
    prefill = 0
    for _ in range(steps):
        if engine.idle():
            break
        step = engine.step()
        prefill += step.prefilled_tokens
        collect(step, found)
        engine.check()
    return prefill
