"""An engine goes to sleep under its legs: each is yielded once, and what comes meanwhile is refused for now."""

import asyncio

import pytest
from msgspec.structs import replace

from mesh import schema
from mesh.core import Failed, Finished, Halt, Yielded
from nodes import names
from nodes.contract.engine import EngineLoad
from nodes.engines.sim import continuation
from nodes.generation import Generation
from nodes.resting import SHUNNED_TOKENS, Sleep, rest_endpoints, shunned
from nodes.sleeping import rest
from proto.errors import Reason
from tests.nodes.hosting import RANGE, Play, engine_of, start_of


def test_legs_go_on_elsewhere_and_others_are_refused_until_it_wakes() -> None:
    play = Play(engine_of())
    running = [play.start(start_of(number, [5, 6, 7 + number], [], Generation(max_tokens=50))) for number in range(3)]
    queued = [play.start(start_of(number, [5, 6, 7 + number], [], Generation(max_tokens=50))) for number in range(3, 9)]
    play.until(play.now + 0.2)
    assert all(play.tokens[leg] for leg in running)
    play.host.halt(Halt(running[0]), play.now)
    for level in (1, 1):
        for event in rest(play.host.core, level, play.now):
            play.post(event)
    during = play.start(start_of(20, [5, 6], [], Generation(max_tokens=2)))
    play.until(play.now + 0.2)
    assert play.host.load().asleep == 1 and play.host.load().blocks_used == 0
    for leg in [*running, *queued]:
        end = play.ends[leg]
        assert isinstance(end, Yielded) and end.reason is Reason.PREEMPT
    refused = play.ends[during]
    assert isinstance(refused, Failed) and refused.retryable and refused.reason is Reason.BUSY

    rest(play.host.core, 0, play.now)
    after = play.start(start_of(21, [5, 6], [], Generation(max_tokens=4)))
    play.until(play.now + 1.0)
    assert play.tokens[after] == continuation([5, 6], 4, RANGE) and isinstance(play.ends[after], Finished)
    assert play.host.load().asleep == 0


def test_routers_shun_one_that_sleeps() -> None:
    awake = EngineLoad(running=3, blocks_total=9)
    assert shunned(awake) == awake
    assert shunned(EngineLoad(asleep=1)).prefill_tokens == SHUNNED_TOKENS


def test_an_engine_that_cannot_sleep_says_what_to_do_instead() -> None:
    card = replace(engine_of().start(), sleeps=False, engine="restless")
    endpoints = rest_endpoints(card, None)  # type: ignore[arg-type]  # it is not even asked
    for name, request in ((names.SLEEP, Sleep()), (names.WAKE, None)):
        with pytest.raises(schema.Refused, match="restless engine cannot sleep: drain"):
            asyncio.run(endpoints[name].handler(request))


@pytest.mark.parametrize("level", [0, 3, -1])
def test_there_are_two_levels(level: int) -> None:
    with pytest.raises(ValueError, match="level must be 1"):
        Sleep(level)
