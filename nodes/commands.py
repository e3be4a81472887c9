"""Pure. What a host tells its engine between two steps, and what the engine says to it at once."""

from collections.abc import Hashable, Sequence
from typing import Any

from msgspec import Struct

from nodes.contract.engine import Engine, Job


class Cancel(Struct):
    """Free this job's room; with `out`, what is computed of it is copied there first."""

    key: Hashable
    out: memoryview | None = None


class Land(Struct):
    """Let a job that lands go on."""

    key: Hashable
    source: memoryview | None = None
    positions: int = 0
    tokens: Sequence[int] = ()


class Stir(Struct):
    """Look again, even if there was nothing to do."""


class Sleep(Struct):
    """Give memory back; 0: take it again. There is no job by then."""

    level: int


Command = Job | Cancel | Land | Stir | Sleep


class Applied(Struct):
    """What an engine says to commands at once."""

    refused: list[tuple[Hashable, str]] = []
    freed: list[tuple[Hashable, int]] = []  # and how many positions were copied
    landed: list[Hashable] = []  # what lay there for them may be written to again
    slept: bool = False


def apply(engine: Engine, commands: Sequence[Command]) -> Applied:
    """Tell an engine what has come up, between two steps."""
    applied = Applied([], [], [])
    for command in commands:
        match command:
            case Job():
                refusal = engine.submit(command)
                if refusal is not None:
                    applied.refused.append((command.key, refusal))
            case Cancel():
                applied.freed.append((command.key, engine.cancel(command.key, command.out)))
            case Land():
                engine.land(command.key, command.source, command.positions, command.tokens)
                applied.landed.append(command.key)
            case Stir():
                engine.stir()
            case Sleep():
                sleeper: Any = engine  # its card said so
                sleeper.sleep(command.level) if command.level else sleeper.wake()
                applied.slept = True
    return applied
