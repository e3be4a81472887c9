"""What lands where the cache has the beginning already, and jobs that want what lands for another."""

from typing import Any

import pytest

from nodes.contract.engine import Job, Output
from nodes.engines.sim import continuation
from tests.nodes.engines.handing import advanced, prefilled
from tests.nodes.engines.models import run
from tests.nodes.engines.test_landing import landing
from tests.nodes.engines.test_sim import RANGE, engine_of


def test_two_answers_to_one_prompt_wait_for_one_landing() -> None:
    engine, prompt = engine_of(slots=3), list(range(23))
    output, out = prefilled(engine_of(), engine.start(), Job(1, prompt))
    engine.submit(landing(Job(1, prompt, max_tokens=5)))
    engine.submit(Job(2, prompt, max_tokens=5))
    engine.submit(Job(3, [9, 9, 9], max_tokens=2))
    found: dict[Any, Output] = {}
    assert advanced(engine, 9, found) == 3 and [*found] == [3], "who shares nothing goes before"
    assert engine.idle()
    engine.land(1, out, 23, output.tokens)
    assert advanced(engine, 99, found) == 3, "5 blocks of 4 came for both"
    assert found[2].tokens == [*output.tokens, *found[1].tokens] == continuation(prompt, 5, RANGE)


@pytest.mark.parametrize("how", ["nothing came", "gone"])
def test_who_waits_for_what_never_lands_computes_it(how: str) -> None:
    engine, prompt = engine_of(), list(range(23))
    engine.submit(landing(Job(1, prompt, max_tokens=5)))
    engine.submit(Job(2, prompt, max_tokens=5))
    engine.step()
    assert engine.idle()
    if how == "gone":
        engine.cancel(1)
    else:
        engine.land(1, None, 0, [])
    assert run(engine)[2].tokens == continuation(prompt, 5, RANGE)


@pytest.mark.parametrize("known", [0, 8, 12, 20])
@pytest.mark.parametrize("waits", [False, True])
def test_what_follows_a_hole_is_of_no_use(known: int, waits: bool) -> None:
    """What comes begins at position 12, because the cache had what is before: it may have it no more."""
    engine, prompt = engine_of(slots=2 - waits), list(range(23))
    if known:
        engine.submit(Job(1, prompt[: known + 1], max_tokens=1))
        run(engine)
    output, out = prefilled(engine_of(), engine.start(), Job(2, prompt))
    out[: 4 * 12] = bytes(4 * 12)
    if waits:
        engine.submit(Job(3, [1, 2], max_tokens=3))
        engine.step()
    engine.submit(landing(Job(2, prompt, max_tokens=4), first=12))
    engine.land(2, out, 23, output.tokens)
    found: dict[Any, Output] = {}
    computed = advanced(engine, 100, found)
    assert [*output.tokens, *found[2].tokens] == continuation(prompt, 4, RANGE)
    assert computed == (0 if known >= 12 else 24 - known) or waits
