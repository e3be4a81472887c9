"""Pure. Why a request went where it went: what was known, what each candidate would have cost, and what decided."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from nodes.routing.cost import Prompt, Snapshot
from nodes.routing.knobs import DEFAULTS, Knobs
from nodes.routing.policy import Choice
from proto.placing import Rank

ROWS_MAX = 64  # in one explanation, the cheapest first


class Decision(Struct, gc=False):
    """A choice with all that it was made from."""

    request: int
    attempt: int
    at: float
    prompt: Prompt
    snapshot: Snapshot
    choice: Choice
    knobs: Knobs
    fed: bool = False  # somebody else computes the prompt

    @property
    def rank(self) -> Rank | None:
        """Where it goes; None: nowhere."""
        return self.snapshot.ranks[self.choice.row] if self.choice.row >= 0 else None

    @property
    def cached(self) -> int:
        """Leading blocks that the choice counts on."""
        return self.snapshot.disk[self.choice.row] if self.choice.row >= 0 else 0


class Candidate(Struct):
    """One rank that could have had it."""

    node: int
    rank: int
    cost: float
    device: int  # leading blocks cached there, or nearer
    host: int
    disk: int
    exact: bool  # whether that is known, not guessed
    prefill_tokens: float
    blocks: float
    common: int
    requests: int
    busy: bool
    session: bool  # made cheaper by the session's hint
    chosen: bool
    worker: str = ""  # the node as people write it


class Explanation(Struct):
    """A decision, for people."""

    request: int
    attempt: int
    at: float
    tokens: int
    blocks: int
    why: str
    drawn: bool
    candidates: list[Candidate]  # the cheapest first
    left_out: int  # more candidates than are shown
    knobs: dict[str, Any]  # those that are not as they come


def explain(decision: Decision) -> Explanation:
    """All of it."""
    count = len(decision.snapshot.ranks)
    order = sorted(range(count), key=lambda row: (row != decision.choice.row, _cost(decision, row)))
    shown = sorted(order[:ROWS_MAX], key=lambda row: _cost(decision, row))
    plain = asdict(DEFAULTS)
    return Explanation(
        request=decision.request,
        attempt=decision.attempt,
        at=decision.at,
        tokens=decision.prompt.tokens,
        blocks=decision.prompt.blocks,
        why=why(decision),
        drawn=decision.choice.drawn,
        candidates=[_candidate(decision, row) for row in shown],
        left_out=count - len(shown),
        knobs={name: value for name, value in asdict(decision.knobs).items() if value != plain[name]},
    )


def why(decision: Decision) -> str:
    """In a sentence, as a Placed carries it."""
    choice, snapshot = decision.choice, decision.snapshot
    row = choice.row
    if row < 0:
        return f"kv: {choice.refused}"
    known = "cached" if not snapshot.exact or snapshot.exact[row] else "probably cached"
    text = f"kv: {snapshot.disk[row]} of {decision.prompt.blocks} blocks {known}"
    text += f", cost {choice.costs[row]:.1f} of {len(snapshot.ranks)} candidates"
    others = [
        cost for other, cost in enumerate(choice.costs) if other != row and not (choice.busy and choice.busy[other])
    ]
    if others:
        text += f", next {min(others):.1f}"
    if choice.hinted == row:
        text += ", its session was here"
    return text + (", drawn" if choice.drawn else "")


def called(node: int, rank: int, names: Mapping[int, str]) -> str:
    """Of one rank, for people: its node's id, and its name if that has one."""
    name = names.get(node, "")
    return f"{node:016x}" + (f".{rank}" if rank else "") + (f" {name}" if name else "")


def table(explanation: Explanation, names: Mapping[int, str]) -> list[str]:
    """Lines for a terminal."""
    lines = [f"{explanation.tokens} tokens, {explanation.blocks} blocks: {explanation.why}"]
    workers = [called(one.node, one.rank, names) for one in explanation.candidates]
    width = max(map(len, workers), default=0) + 2
    heads = ("cost", "cached", "queued", "blocks", "common", "requests")
    lines.append("  " + "worker".ljust(width) + "{:>10}{:>8}{:>9}{:>9}{:>8}{:>9}".format(*heads))
    for one, worker in zip(explanation.candidates, workers, strict=True):
        marks = [word for word in ("chosen", "busy", "session") if getattr(one, word)]
        marks += [] if one.exact else ["guessed"]
        row = f"  {worker:{width}}{one.cost:10.1f}{one.disk:8}{one.prefill_tokens:9.0f}{one.blocks:9.1f}{one.common:8}"
        lines.append(f"{row}{one.requests:9}  {', '.join(marks)}".rstrip())
    if explanation.left_out:
        lines.append(f"  and {explanation.left_out} more that would have cost more")
    return lines


def _cost(decision: Decision, row: int) -> float:
    return decision.choice.costs[row] if decision.choice.costs else 0.0


def _candidate(decision: Decision, row: int) -> Candidate:
    snapshot, choice = decision.snapshot, decision.choice
    node, rank = snapshot.ranks[row]
    return Candidate(
        node=node,
        rank=rank,
        cost=_cost(decision, row),
        device=snapshot.device[row],
        host=snapshot.host[row],
        disk=snapshot.disk[row],
        exact=snapshot.exact[row] if snapshot.exact else True,
        prefill_tokens=snapshot.prefill_tokens[row],
        blocks=snapshot.blocks[row],
        common=snapshot.common[row],
        requests=snapshot.requests[row],
        busy=bool(choice.busy) and choice.busy[row],
        session=row == choice.hinted,
        chosen=row == choice.row,
        worker=f"{node:016x}",
    )
