"""A job whose blocks were handed over has no embeddings: if it loses its blocks it must go where others look again."""

from nodes.contract.engine import Ending, Job
from nodes.contract.media import Media
from nodes.engines.sim import SimEngine
from tests.nodes.engines.handing import room
from tests.nodes.engines.models import run
from tests.nodes.engines.test_sim import engine_of

PROMPT = list(range(20, 32))


def landed(embedding: object) -> SimEngine:
    """An engine with two jobs that do not fit in the end; the later one shows something, and has landed."""
    engine = engine_of(slots=2, blocks=8, block_tokens=4)
    layout = engine.start().layout
    assert layout is not None
    assert engine.submit(Job(1, PROMPT[:4], max_tokens=16)) is None
    engine.step()
    media = [Media(2, 2, b"a name of 16 byt", embedding)]
    assert engine.submit(Job(2, PROMPT, max_tokens=10, media=media, lands=True)) is None
    engine.step()
    engine.land(2, room(layout, len(PROMPT)), len(PROMPT) - 1, [])
    return engine


def ending(engine: SimEngine) -> Ending | None:
    found = run(engine)
    engine.check()
    return found[2].ending


def test_without_embeddings_it_moves() -> None:
    assert ending(landed(None)) is Ending.PREEMPTED


def test_with_them_it_is_computed_again() -> None:
    assert ending(landed(b"rows")) is Ending.LENGTH
