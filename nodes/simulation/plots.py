"""Pure. Plots: seeds that tell one story, because chance would tell it too seldom. Each changes the calls it needs."""

from collections.abc import Callable
from random import Random

from mesh.simulation.nemesis import BACK, BOTH, THERE
from mesh.simulation.plan import BUSIEST, Fault
from nodes.simulation.faults import FROM_S, LAST_S, one, places
from nodes.simulation.plan import FRONTEND, ROUTER, WORKER, ServingPlan

LONG_S = 10.0  # a hang is noticed after 5 s, and what moves then must show within 7.5 s

Plot = Callable[[Random, ServingPlan], list[Fault]]


def long(random: Random, plan: ServingPlan) -> list[Fault]:
    """One fault that lasts for longer than anybody waits, and nothing else: whoever can go on elsewhere must."""
    kind = random.choice(("hang", "hang", "freeze", "cut"))
    plan.heal_s = LONG_S
    at_s = random.uniform(0.8, 2.0)
    fault = Fault(at_s, kind, random.choice(places(plan, WORKER)), for_s=plan.heal_s - LAST_S - at_s)
    if kind == "cut":
        fault.place, fault.amount = BUSIEST, random.choice((BOTH, THERE, BACK))
    _around(random, plan, at_s, 0.6, 0.0)
    return [fault]


def clog(random: Random, plan: ServingPlan) -> list[Fault]:
    """What a worker says is late, and its callers are impatient: they move, and then all of it comes."""
    for call in plan.calls:
        call.stall_s, call.max_tokens = random.choice((0.0, 0.3, 0.6)), min(call.max_tokens, 50)
    times = sorted(random.uniform(FROM_S, plan.heal_s - 2.5) for _ in range(random.choice((1, 2))))
    _around(random, plan, times[0], 0.5, 0.2)
    return [
        Fault(at_s, "cut", BUSIEST, for_s=random.choice((0.8, 1.5)), amount=random.choice((THERE, BOTH)))
        for at_s in times
    ]


def leaderless(random: Random, plan: ServingPlan) -> list[Fault]:
    """All routers are gone or deaf at once, and just then there is work."""
    at_s = random.uniform(FROM_S, 1.5)
    kind, for_s = random.choice(("crash", "freeze", "freeze")), random.choice((1.0, 1.9))
    _around(random, plan, at_s, 0.02, for_s)
    for call in plan.calls:
        call.routed = True
    return [Fault(at_s, kind, number, for_s=for_s) for number in places(plan, ROUTER)]


def late_advice(random: Random, plan: ServingPlan) -> list[Fault]:
    """What one router says comes when the worker that was taken without it has died."""
    at_s, for_s = random.uniform(FROM_S, 1.5), random.choice((0.35, 0.6, 1.0))
    _around(random, plan, at_s, 0.0, 0.1)
    for call in plan.calls:
        call.routed, call.max_tokens = True, max(25, call.max_tokens)
    router = random.choice(places(plan, ROUTER))
    cuts = [Fault(at_s, "cut", router, frontend, for_s, THERE) for frontend in places(plan, FRONTEND)]
    deaths = [at_s + for_s + random.uniform(-0.05, 0.03) for _ in range(random.choice((1, 2)))]
    others = [number for number in places(plan, ROUTER) if number != router]
    slow = [Fault(min(deaths) - 0.05, "slow", other, for_s=0.4, amount=150.0) for other in others]  # they think it over
    return [*cuts, *slow, *(Fault(death_s, "crash", BUSIEST, for_s=0.3) for death_s in deaths)]


def false_alarm(random: Random, plan: ServingPlan) -> list[Fault]:
    """A request loses its link, and as a suspect loses it again, but nobody has died."""
    at_s = random.uniform(FROM_S, 1.2)
    _around(random, plan, at_s, 0.0, 1.0)
    return [Fault(at_s, "drop_after_accept"), Fault(at_s, "drop_after_go")]


def molasses(random: Random, plan: ServingPlan) -> list[Fault]:
    """Every engine is slow, and every caller impatient: nobody may be moved for ever."""
    at_s = random.uniform(FROM_S, 1.0)
    _around(random, plan, at_s, 0.0, 0.5)
    for call in plan.calls:
        call.stall_s, call.moves_max = random.choice((0.0, 0.3, 0.3)), 3
    return [Fault(at_s, "engine_slow", number, for_s=2.4, amount=80.0) for number in places(plan, WORKER)]


def storm(random: Random, plan: ServingPlan) -> list[Fault]:
    """Engines that refuse what their workers have accepted, and much to do: only so much of it is tried again."""
    at_s = random.choice((1.0, 2.0, plan.heal_s - 1.0))
    for place in plan.places:
        place.engine_slots, place.engine_queue, place.slots = random.choice((1, 2)), 1, 12
    _around(random, plan, at_s, 0.0, 0.2)
    return [one(random, plan, "engine_slow")] if random.random() < 0.3 else []


def crowd(random: Random, plan: ServingPlan) -> list[Fault]:
    """Long sequences and few blocks: who came last loses them, and computes again or goes elsewhere."""
    for place in plan.places:
        place.blocks, place.engine_slots, place.decode_ms = random.choice((42, 50)), 6, 25.0
        place.hand_over = random.random() < 0.6
    at_s = random.uniform(FROM_S, 1.5)
    _around(random, plan, at_s, 0.0, 0.3)
    for call in plan.calls:
        call.prompt, call.max_tokens, call.stop_at = random.choice((20, 40)), random.choice((30, 60)), -1
        call.logprobs = random.choice((-1, 0, 2))
        if random.random() < 0.3:
            call.pace_ms, call.window = 80.0, random.choice((2, 5))
    return [one(random, plan, random.choice(("crash", "drain", "cut")))] if random.random() < 0.5 else []


PLOTS: dict[str, Plot] = {
    "long": long, "clog": clog, "leaderless": leaderless, "late_advice": late_advice, "false_alarm": false_alarm,
    "molasses": molasses, "storm": storm, "crowd": crowd,
}  # fmt: skip
ROUTED = ("leaderless", "late_advice")  # they need routers, and two workers between which to choose
SWAYED = ("late_advice", "storm")  # they need more than a few


def _around(random: Random, plan: ServingPlan, at_s: float, before_s: float, after_s: float) -> None:
    """Most calls come in this time."""
    for call in plan.calls:
        if random.random() < 0.85:
            call.at_s = max(0.3, at_s + random.uniform(-before_s, after_s))
