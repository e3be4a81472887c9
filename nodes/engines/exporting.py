"""Pure. What leaves an engine's cache for another engine, and when."""

from collections.abc import Sequence
from typing import Protocol

from nodes.contract.engine import Output
from nodes.engines.running import Brought, Plan, Running
from nodes.transfer.layout import Layout


class Exchange(Protocol):
    """An engine's memory, as far as it is handed over: between its own form and blocks in the form of `layout`.

    The first block of `out` and of `source` is the first of the sequence. Both functions move the positions from
    `start` up to before `stop`, which all have their blocks.
    """

    layout: Layout

    def gather(self, running: Running, start: int, stop: int, out: memoryview) -> None:
        """Copy what is computed of a sequence out of its blocks."""
        ...

    def scatter(self, running: Running, start: int, stop: int, source: memoryview) -> None:
        """Copy what was computed elsewhere into its blocks."""
        ...

    def save(self, block: int, out: memoryview) -> None:
        """Copy one full block out, whoever filled it."""
        ...

    def restore(self, running: Running, index: int, sources: Sequence[memoryview]) -> None:
        """Copy full blocks, each in a memory of its own, into those of a sequence from its block `index` on."""
        ...

    def note(self, running: Running, start: int, stop: int) -> None:
        """The blocks of these positions are full, and may be saved when this sequence has gone."""
        ...

    def resume(self, running: Running) -> None:
        """All but its last token landed: its next step is a decode, and nothing of it was computed here before."""
        ...


def positions_in(buffer: memoryview, layout: Layout) -> int:
    """How many positions have room there."""
    return len(buffer) // layout.block_bytes * layout.block_tokens


def copy_of(source: memoryview, positions: int, layout: Layout) -> Brought:
    """What came, to be kept until there are blocks for it."""
    blocks = -(-positions // layout.block_tokens)
    return Brought(bytes(source[: blocks * layout.block_bytes]), positions)


def save(running: Running, decodes: bool, out: memoryview, exchange: Exchange) -> int:
    """Copy what is computed of a sequence, as far as it fits; how many positions are there."""
    if running.brought is not None and running.job.first:
        return 0  # its beginning is in the cache, perhaps
    if running.brought is not None:
        return running.brought.save(out, exchange.layout)
    stop = min(_computed(running, decodes), positions_in(out, exchange.layout))
    if stop:
        exchange.gather(running, 0, stop, out)
    return stop


def keep(running: Running, decodes: bool, exchange: Exchange) -> Brought | None:
    """A copy of all that is computed of a sequence whose blocks are about to go; None if nothing is."""
    positions = _computed(running, decodes)
    if not positions:
        return None
    content = bytearray(-(-positions // exchange.layout.block_tokens) * exchange.layout.block_bytes)
    exchange.gather(running, 0, positions, memoryview(content))
    return Brought(content, positions)


def _computed(running: Running, decodes: bool) -> int:
    """How many positions are in its blocks."""
    if decodes:
        return len(running.tokens) - 1
    return running.computed if running.blocks else 0


def export(plan: Plan, exchange: Exchange) -> None:
    """Copy what a step computed to those who wait for it, while its blocks are still its own."""
    steps = [(running, len(running.tokens)) for running in plan.decoding]
    steps += [(part.running, part.start + part.count) for part in plan.parts]
    for running, computed in steps:
        out = running.job.out
        if out is None:
            continue
        stop = min(computed, positions_in(out, exchange.layout))
        if stop > running.exported:  # not so where it is computed again
            exchange.gather(running, running.exported, stop, out)
            running.exported = stop


def tell_exported(plan: Plan, outputs: list[Output], first: int) -> None:
    """In the outputs of the plan's heads, which begin at `first`, and in more for those who got no token."""
    for output, running in zip(outputs[first:], plan.heads, strict=True):
        output.exported = running.exported
    heads = {running.order for running in plan.heads}
    for part in plan.parts:
        running = part.running
        if running.job.out is not None and running.order not in heads:
            outputs.append(Output(running.key, exported=running.exported))
