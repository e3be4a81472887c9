"""Pure. Plans from seeds: which places there are and what clients ask for. Small worlds: a bug needs few witnesses.

One stream of draws per purpose, so that a change in one leaves the others alone.
"""

from random import Random

from msgspec import structs

from mesh.simulation import faults
from mesh.simulation.plan import CHAIN, CHECKED, FEEDERS, PLAIN, TOKENS, Call, Place, Plan, Work
from proto.messages import Role

PROFILES = ("chaos", "calm", "skew", "seeds", "drain")
HEAL_S = (5.0, 7.0, 9.5)  # long enough for a hang to be noticed, in a third of the seeds
CALLS_FROM_S, CALLS_UNTIL = 0.1, 0.7  # the last call is made after that share of the time
STEP_MS_MAX = 250.0
CALM_S, LINKED_S = 3.5, 1.5
KINDS = (PLAIN, CHECKED, TOKENS)
WEIGHTS = (2, 3, 3)


def draw(seed: int, profile: str = "chaos") -> Plan:
    """The plan of a seed."""
    random = Random(f"{seed}/places")
    places = _places(random, profile)
    heal_s = random.choice(HEAL_S) if profile != "calm" else CALM_S
    calls = _calls(Random(f"{seed}/calls"), places, profile, heal_s)
    _walks(Random(f"{seed}/walks"), places, calls, profile)
    plan = Plan(seed, profile, places, calls, [], heal_s=heal_s)
    if profile == "seeds" or (profile == "chaos" and random.random() < 0.15):
        _by_seeds(random, plan)
    if profile not in ("calm", "drain"):
        plan.stale = random.choice((0.0, 0.2, 0.6))
    if profile == "calm":
        plan.heal_s = CALM_S + LINKED_S - 1.0
        for call in calls:
            call.at_s += LINKED_S  # whoever is called is there
    else:
        plan.faults = faults.draw(Random(f"{seed}/faults"), plan)
        _crowd(Random(f"{seed}/crowd"), plan)
        _hand_overs(Random(f"{seed}/handing"), plan)
    return plan


def _walks(random: Random, places: list[Place], calls: list[Call], profile: str) -> None:
    """In some seeds token streams have feeders before them, with nodes of their own or together with others."""
    asked = [call for call in calls if call.endpoint == TOKENS]
    if not asked or random.random() < 0.4:
        return
    served = random.choice((FEEDERS, FEEDERS[:1], FEEDERS[1:], FEEDERS[1:]))
    for place in list(places):
        if TOKENS in place.wants:
            place.wants = [*place.wants, *served]
        if TOKENS in place.offers and random.random() < 0.25:
            place.offers = [*place.offers, *served]
    for number in range(random.choice((1, 1, 2, 2, 3))):
        offers = [*served] if number == 0 or random.random() < 0.5 else [random.choice(served)]
        places.append(structs.replace(_holder(random, number, offers, profile), name=f"feeder{number}"))
    for call in asked:
        if random.random() < 0.8:
            call.needs = [*served] if random.random() < 0.7 else [random.choice(served)]


def _hand_overs(random: Random, plan: Plan) -> None:
    """Where something is handed over, that is when it hurts."""
    if plan.profile == "chaos" and any(call.needs for call in plan.calls) and random.random() < 0.4:
        for _ in range(random.choice((1, 1, 3))):
            plan.faults.append(faults.one(random, plan, "kill_hander"))
        plan.faults.sort(key=lambda fault: fault.at_s)


def _crowd(random: Random, plan: Plan) -> None:
    """Some seeds have most of their calls shortly before a fault, when it hurts."""
    times = [fault.at_s for fault in plan.faults if fault.kind not in ("foreign", "stranger")]
    if times and (plan.profile == "drain" or random.random() < 0.6):
        for call in plan.calls:
            work, before_s = call.work, random.random()
            if random.random() < 0.8:
                lasts_s = work.units * work.step_ms / work.batch / 1000
                call.at_s = max(CALLS_FROM_S, random.choice(times) - before_s * max(0.02, lasts_s))


# --- Places ------------------------------------------------------------------------------------------


def _places(random: Random, profile: str) -> list[Place]:
    served = random.sample(KINDS, random.choice((1, 2, 2, 3)))
    middles = 1 if profile != "calm" and random.random() < 0.25 else 0
    inner = [endpoint for endpoint in served if endpoint != TOKENS]
    places = [_holder(random, number, served, profile) for number in range(random.choice((1, 2, 2, 2, 3, 3, 4)))]
    if middles and inner:
        places.append(Place("middle", int(Role.COMPONENT), [CHAIN], inner, slots=3, queue=2))
    wants = [endpoint for endpoint in served if endpoint not in inner or not middles or random.random() < 0.7]
    if middles and inner:
        wants.append(CHAIN)
    for number in range(random.choice((1, 2, 2, 2, 3))):
        places.append(Place(f"client{number}", int(Role.CLIENT), [], wants or served))
    for place in places:
        _vary(random, place, profile)
    if profile == "chaos" and random.random() < 0.1:
        places.append(Place("foreigner", int(Role.CLIENT), [], wants or served, mesh="other", seeds=[0]))
    return places


def _holder(random: Random, number: int, served: list[str], profile: str) -> Place:
    roomy = profile == "calm" or random.random() < 0.5
    return Place(
        name=f"holder{number}",
        role=int(Role.WORKER),
        offers=served,
        slots=12 if roomy else random.choice((1, 2, 3)),
        queue=12 if roomy else random.choice((0, 1, 2)),
        engine=random.random() < 0.6,
    )


def _vary(random: Random, place: Place, profile: str) -> None:
    share = {"skew": 0.5, "chaos": 0.05}.get(profile, 0.0)
    place.newer = random.random() < share
    place.clock_s = random.choice((0.0, 1.0, 1000.0, 123456.7))
    if random.random() < 0.2:
        place.drift = random.uniform(-1e-4, 1e-4)
    if random.random() < 0.2:
        place.born_s = random.uniform(0.0, 1.0)


def _by_seeds(random: Random, plan: Plan) -> None:
    """No discovery: everybody is given one or two addresses, and gossip does the rest."""
    plan.discovery = False
    known = [number for number, place in enumerate(plan.places) if place.offers]
    for number, place in enumerate(plan.places):
        if number != known[0]:
            others = [other for other in known if other != number]
            place.seeds = [known[0], *random.sample(others, min(len(others), random.choice((0, 1))))]
            place.seeds = list(dict.fromkeys(place.seeds))


# --- Calls -------------------------------------------------------------------------------------------


def _calls(random: Random, places: list[Place], profile: str, heal_s: float) -> list[Call]:
    clients = [number for number, place in enumerate(places) if not place.offers and place.mesh == "sim"]
    count = random.choice((2, 4, 6, 10))
    cancels, slow_readers, fails = (random.random() < 0.5 for _ in range(3))
    stalls = profile != "drain" and random.random() < 0.2
    calls = []
    for number in range(count):
        call = _call(random, places, random.choice(clients), number)
        call.at_s = random.uniform(CALLS_FROM_S, CALLS_UNTIL * heal_s)
        if fails and random.random() < 0.2:
            call.work.fail_at = random.randrange(call.work.units + 1)
            call.work.retryable = random.random() < 0.4 and call.endpoint != CHAIN
        if cancels and random.random() < 0.4:
            _cancel(random, call)
        if slow_readers and random.random() < 0.3:
            call.pace_ms, call.window = random.choice((10.0, 40.0)), random.choice((1, 2, 5, 16))
        if profile != "drain":
            _impatience(random, call)
        if stalls and random.random() < 0.5:
            call.stall_s = random.choice((0.5, 1.0, 3.0))
        calls.append(call)
    return sorted(calls, key=lambda call: call.at_s)


def _call(random: Random, places: list[Place], client: int, number: int) -> Call:
    endpoint = random.choice(places[client].wants)
    work = Work(
        seed=number + 1,
        units=random.choice((0, 1, 5, 12, 25, 40)),
        batch=random.choice((1, 2, 5)),
        every=random.choice((1, 3, 7, 7)),
        halt_ms=random.choice((0.0, 1.0, 30.0, 300.0)),
        heeds=random.random() < 0.7,
    )
    lasts_s = random.choice((0.0, 0.1, 0.6, 1.2, 2.0))
    work.step_ms = min(STEP_MS_MAX, max(1.0, lasts_s * 1000 * work.batch / max(1, work.units)))
    if endpoint == CHAIN:
        middle = next(place for place in places if CHAIN in place.offers)
        work.inner = random.choice(middle.wants)
    policy = random.choice(("round_robin", "round_robin", "random", "least_loaded"))
    call = Call(0.0, client, endpoint, work, policy=policy)
    if endpoint == TOKENS:
        call.prompt = random.choice((1, 5, 31, 32, 40))
    return call


def _cancel(random: Random, call: Call) -> None:
    call.cancel = random.choice(("stop", "kill", "kill"))
    call.when = random.choice(("at", "position", "end"))
    if call.when == "at":
        call.value = random.choice((0.0, 0.001, random.uniform(0, 0.05), random.uniform(0, 1.5)))
    elif call.when == "position":
        call.value = float(random.randint(1, max(1, call.work.units)))
    else:
        call.value = random.uniform(0.0, 0.002)


def _impatience(random: Random, call: Call) -> None:
    if random.random() < 0.15:
        call.timeout_s = random.choice((0.05, 0.5, 2.0, 6.0))
    if random.random() < 0.05:
        call.pinned = 0
        call.policy = "direct"
