"""Pure. Serving plans from seeds: small meshes, few requests, and everything that can be special about one."""

from random import Random

from mesh.routing import ROUTER as PLACES
from mesh.simulation.plan import Fault, Work
from nodes.names import ENCODE, GENERATE, PREFILL
from nodes.routing.knobs import KV
from nodes.simulation import faults
from nodes.simulation.pictures import PICTURES
from nodes.simulation.plan import CALM, ENCODER, FRONTEND, ROUTER, WORKER, ServingCall, ServingPlace, ServingPlan
from nodes.simulation.plots import PLOTS, ROUTED, SWAYED
from proto.messages import Role

PROFILES = ("serving", CALM, "serving-drain")
DRAIN = "serving-drain"
HEAL_S = (3.5, 5.0, 8.5)  # long enough for a hang to be noticed, in a third of the seeds
CALLS_FROM_S, CALLS_UNTIL = 0.3, 0.7  # the last call is made after that share of the time
MEANWHILE_S = 1.5  # of a fault, in which there are calls too
CALM_FROM_S = 1.5  # everybody is linked by then
FED_STALL_S = 1.0  # who is less patient than what is handed over is slow moves for ever, a token at a time
SOME_SALT = ("", "", "", "", "salt")
POLICIES = ("round_robin", "random", "power_of_two", "least_loaded")


def draw(seed: int, profile: str = "serving") -> ServingPlan:
    """The plan of a seed."""
    random = Random(f"{seed}/serving/places")
    plot = random.choice(("", "", "", "", "", "single", "rolling", *PLOTS)) if profile == "serving" else ""
    places = _places(random, profile, plot)
    heal_s = random.choice(HEAL_S) if profile != CALM else 3.5
    calls = _calls(Random(f"{seed}/serving/calls"), places, profile, heal_s, plot)
    _walks(Random(f"{seed}/serving/walks"), places, calls, profile)
    _caches(Random(f"{seed}/serving/caches"), places, calls, profile)
    _sights(Random(f"{seed}/serving/sights"), places, calls, profile)
    alike = _alike(Random(f"{seed}/serving/alike"), places, calls)
    visits_s = _visits(Random(f"{seed}/serving/visits"), places, calls) if profile != DRAIN and not plot else 0.0
    heal_s = max(heal_s, visits_s)
    plan = ServingPlan(seed, profile, places, calls, [], heal_s=heal_s)
    if profile == CALM:
        return plan
    plan.stale = random.choice((0.0, 0.2, 0.6)) if profile != DRAIN else 0.0
    if profile != DRAIN and random.random() < 0.1:
        _by_seeds(plan)
    random = Random(f"{seed}/serving/faults")
    if plot in PLOTS:
        plan.faults = PLOTS[plot](random, plan)
    else:
        plan.faults = _faults(random, plan, plot)
        if not visits_s:
            _crowd(Random(f"{seed}/serving/crowd"), plan)
    _torn(Random(f"{seed}/serving/torn"), plan)
    if any(place.offers and place.offers[0].startswith(PREFILL) for place in places):
        for call in calls:
            call.stall_s = call.stall_s and max(call.stall_s, FED_STALL_S)
    if alike:
        plan.faults += _evictions(Random(f"{seed}/serving/evictions"))
    plan.faults.sort(key=lambda fault: fault.at_s)
    return plan


def _faults(random: Random, plan: ServingPlan, plot: str) -> list[Fault]:
    if plot == "rolling" or plan.profile == DRAIN:
        return faults.rolling(random, plan)
    return [faults.one(random, plan, random.choice(faults.SIMPLE))] if plot == "single" else faults.swarm(random, plan)


# --- Places ----------------------------------------------------------------------------------------------------


def _places(random: Random, profile: str, plot: str) -> list[ServingPlace]:
    models = random.choice((["a"], ["a"], ["a", "b"])) if plot not in ROUTED else ["a"]
    tight = profile == "serving" and random.random() < 0.5
    workers = random.choice((1, 2, 2, 2, 3, 3)) if profile != DRAIN else random.choice((2, 3, 3))
    workers = max(workers, 2) if plot in (*ROUTED, *SWAYED) else workers
    places = []
    for number in range(workers):
        place = _worker(random, number, tight)
        place.offers = [GENERATE + (models[0] if number == 0 else random.choice(models))]
        places.append(place)
    for number in range(max(random.choice((0, 1, 1, 2)), 1 + (plot in SWAYED) if plot in ROUTED else 0)):
        router = ServingPlace(f"router{number}", int(Role.ROUTER), [PLACES], [GENERATE], kind=ROUTER)
        router.policy = random.choice(POLICIES)
        places.append(router)
    for number in range(random.choice((1, 1, 1, 2, 2, 3))):
        frontend = ServingPlace(f"frontend{number}", int(Role.COMPONENT), [], [GENERATE, PLACES], kind=FRONTEND)
        places.append(frontend)
    for place in places:
        _vary(random, place, profile)
    return places


def _worker(random: Random, number: int, tight: bool) -> ServingPlace:
    place = ServingPlace(f"worker{number}", int(Role.WORKER), kind=WORKER, slots=64, queue=24)
    place.decode_ms = random.choice((25.0, 40.0, 60.0))
    place.caching = random.random() < 0.8
    place.engine = True  # its steps are its progress
    if tight:
        place.engine_slots = random.choice((1, 2, 4))
        place.queue = random.choice((0, 1, 3, 24))
        place.blocks = random.choice((44, 60, 160))  # one request always fits: 40 blocks are a context
        place.step_tokens = random.choice((8, 16, 64))
        place.hand_over = random.random() < 0.4
    if tight and random.random() < 0.2:
        place.engine_queue = random.choice((1, 2))  # the engine's own queue, shorter than the worker thinks
        place.slots = place.engine_slots + 8
    return place


def _walks(random: Random, places: list[ServingPlace], calls: list[ServingCall], profile: str) -> None:
    """In some seeds prompts are computed elsewhere; in most, caches may move."""
    workers = [place for place in places if place.kind == WORKER]
    staging = random.choice((0, 12, 60, 200))
    for place in workers:
        place.staging = staging if random.random() < 0.9 else 0
    if random.random() < 0.45:
        return
    model = workers[0].offers[0].removeprefix(GENERATE)
    for number in range(random.choice((1, 1, 2))):
        place = _worker(random, number, profile == "serving" and random.random() < 0.3)
        place.name, place.offers = f"prefill{number}", [PREFILL + model]
        place.staging = random.choice((0, 12, 60, 200, 200))
        places.append(place)
    for place in places:
        if place.kind in (FRONTEND, ROUTER):
            place.wants = [*place.wants, PREFILL]
        place.splits = place.kind == ROUTER and random.random() < 0.7
    for call in calls:
        if call.endpoint == GENERATE + model and random.random() < 0.8:
            call.needs, call.routed = [PREFILL + model], random.random() < 0.3


def _caches(random: Random, places: list[ServingPlace], calls: list[ServingCall], profile: str) -> None:
    """In some seeds routers know of caches; what they are told is lost in part, or too long ago to be told again."""
    if random.random() < 0.55:
        return
    untold = random.choice((0.0, 0.0, 0.1, 0.4)) if profile == "serving" else 0.0
    ring, pieces = random.choice((1, 2, 5, 20, 4096)), random.choice((1, 1, 2, 8))
    queue_steps, queue_policy = random.choice((0.0, 0.0, 0.5, 1.0, 4.0)), random.choice(("fcfs", "lcfs", "wspt"))
    for place in places:
        if place.kind == WORKER:
            place.tells, place.untold = random.random() < 0.9, untold
            place.ring_changes, place.pieces = ring, pieces
        elif place.kind == ROUTER and random.random() < 0.9:
            place.policy, place.wants = KV, [*place.wants, PLACES]
            place.queue_steps, place.queue_policy = queue_steps, queue_policy
    for call in calls:
        call.wishes, call.session = random.random() < 0.9, random.choice(("", "", "one", "two"))
        call.shared = random.choice((call.shared, 24, 40)) if call.prompt + call.max_tokens <= 70 else call.shared


def _sights(random: Random, places: list[ServingPlace], calls: list[ServingCall], profile: str) -> None:
    """In some seeds a model takes pictures, and in most of those there are encoders that make embeddings of them."""
    if random.random() < 0.65:
        return
    workers = [place for place in places if place.kind == WORKER]
    model, encoders = workers[0].offers[0].removeprefix(GENERATE), random.choice((0, 1, 1, 2, 2))
    tells, blind = random.random() < 0.8, profile == "serving" and bool(encoders) and random.random() < 0.3
    blind = blind and not any(PREFILL + model in place.offers for place in places)  # those fetch what is fetched once
    for number in range(encoders):
        place = ServingPlace(
            f"encoder{number}", int(Role.WORKER), [ENCODE + model], kind=ENCODER, queue=24, engine=True
        )
        place.slots = random.choice((1, 4, 64)) if profile == "serving" else 64
        place.tells, place.untold, place.ring_changes = tells, workers[0].untold, workers[0].ring_changes
        _vary(random, place, profile)
        places.append(place)
    for place in places:
        if place.kind in (FRONTEND, ROUTER):
            place.wants = [*place.wants, ENCODE]
        place.sees = place.kind == ROUTER or (place.kind == WORKER and place.offers[0].endswith(f"/{model}"))
        place.blind = place.sees and blind
        place.encode_ms = random.choice((5.0, 40.0, 200.0))
        place.shelf_parts = random.choice((1, 2, 4, 16)) if profile == "serving" else 16
    for call in calls:
        if call.endpoint == GENERATE + model and random.random() < 0.7:
            call.pictures = [random.randrange(PICTURES) for _ in range(random.choice((1, 1, 2, 3)))]
            call.wishes = True
            if profile == "serving" and random.random() < 0.05:
                call.spoilt = random.choice(("bytes", "name"))
    if encoders > 1 and random.random() < 0.6:  # routers must choose between them, and can know how
        for place in places:
            place.tells = place.tells or place.kind == ENCODER
            if place.kind == ROUTER and place.policy != KV:
                place.policy, place.wants = KV, [*place.wants, PLACES]
    if profile == CALM and random.random() < 0.5:  # slower than anybody's patience with what hangs, and all is well
        for place in places:
            place.encode_ms = 2500.0


def _torn(random: Random, plan: ServingPlan) -> None:
    """Where pictures go to prefill workers, what is handed over is sometimes torn: who offers it dies in the middle.

    Or it comes, and then loses its blocks to others.
    """
    feeds = any(place.sees and place.offers[0].startswith(PREFILL) for place in plan.places if place.offers)
    if plan.profile != "serving" or not feeds:
        return
    shows = [call for call in plan.calls if call.pictures and not (call.poison or call.stall_s)]
    for call in shows:
        call.shared, call.prompt, call.max_tokens = random.choice((9, 24)), 40, max(4, call.max_tokens)
    if random.random() < 0.4:
        at_s = random.uniform(faults.FROM_S, 1.5)
        for call in shows:
            call.at_s, call.max_tokens, call.stop_at = at_s + random.uniform(0.0, 0.4), random.choice((40, 60)), -1
        for place in plan.places:
            place.blocks = random.choice((42, 50)) if place.offers and place.offers[0].startswith(GENERATE) else 160
            place.staging = 200
        return
    for _ in range(random.choice((2, 4))):
        at_s, after_ms = random.uniform(faults.FROM_S, plan.heal_s - 2.0), random.choice((20.0, 60.0, 150.0))
        plan.faults.append(Fault(at_s, "kill_hander", for_s=0.3, amount=after_ms))


def _alike(random: Random, places: list[ServingPlace], calls: list[ServingCall]) -> bool:
    """In some seeds prompts that are computed elsewhere begin alike: who decodes has a part of them already."""
    fed = [call for call in calls if call.needs and not (call.poison or call.wrong or call.pictures)]
    if len(fed) < 2 or random.random() < 0.4:
        return False
    for call in fed:
        call.shared, call.prompt, call.salt = random.choice((24, 40)), random.choice((8, 20)), random.choice(SOME_SALT)
        call.max_tokens = max(4, call.max_tokens)
    for place in places:
        place.staging = 200 if place.staging else 0
    return True


def _visits(random: Random, places: list[ServingPlace], calls: list[ServingCall]) -> float:
    """In some seeds with caches requests come one by one, and show what was shown before; until when they come."""
    if not any(place.policy == KV for place in places) or random.random() < 0.25:
        return 0.0
    del calls[8:]
    shown = [random.randrange(PICTURES) for _ in range(2)]
    for number, call in enumerate(calls):
        call.at_s, call.session = CALM_FROM_S + number * 0.7 + random.uniform(0.0, 0.1), ""
        call.shared, call.salt, call.max_tokens = random.choice((24, 40)), "", random.choice((1, 4))
        call.prompt, call.pace_ms, call.cancel, call.stop_at = min(call.prompt, 8), 0.0, "", -1
        call.pictures = call.pictures and random.choice((shown, shown[:1], shown[1:]))
    return calls[-1].at_s + 1.0


def _evictions(random: Random) -> list[Fault]:
    """Who decodes loses what it has while the rest comes."""
    times_ms = [random.choice((0.0, 2.0, 10.0, 40.0)) for _ in range(random.choice((0, 1, 2, 5, 20)))]
    return [Fault(0.0, "evict", amount=after_ms) for after_ms in times_ms]


def _vary(random: Random, place: ServingPlace, profile: str) -> None:
    place.newer = profile == "serving" and random.random() < 0.05
    place.clock_s = random.choice((0.0, 1.0, 1000.0, 123456.7))
    if random.random() < 0.2:
        place.drift = random.uniform(-1e-4, 1e-4)
    if random.random() < 0.2:
        place.born_s = random.uniform(0.0, 1.0)


def _by_seeds(plan: ServingPlan) -> None:
    """No discovery: everybody is told of the first worker, and gossip does the rest."""
    plan.discovery = False
    for place in plan.places[1:]:
        place.seeds = [0]


# --- Calls -----------------------------------------------------------------------------------------------------


def _calls(random: Random, places: list[ServingPlace], profile: str, heal_s: float, plot: str) -> list[ServingCall]:
    frontends = [number for number, place in enumerate(places) if place.kind == FRONTEND]
    endpoints = sorted({endpoint: None for place in places if place.kind == WORKER for endpoint in place.offers})
    count = random.choice((3, 5, 8, 12))
    cancels, slow_readers, mistakes, poison = (random.random() < share for share in (0.5, 0.4, 0.3, 0.3))
    calls = []
    for number in range(count):
        call = _call(random, random.choice(frontends), random.choice(endpoints), number)
        first_s = CALM_FROM_S if profile == CALM else CALLS_FROM_S
        call.at_s = random.uniform(first_s, max(first_s + 1.0, CALLS_UNTIL * heal_s))
        if cancels and random.random() < 0.4:
            _cancel(random, call)
        if slow_readers and random.random() < 0.3:
            call.pace_ms, call.window = random.choice((20.0, 80.0)), random.choice((1, 2, 5, 16))
        if mistakes and random.random() < 0.2:
            call.wrong = random.choice(("token", "long", "payload"))
        if profile == "serving":
            _impatience(random, call)
            if poison and number < 2 and random.random() < 0.7:
                call.poison, call.wrong = True, ""
        calls.append(call)
    if plot == "storm" or (profile != DRAIN and random.random() < 0.2):
        calls.extend(_flood(random, frontends, endpoints, calls))
    return sorted(calls, key=lambda call: call.at_s)


def _call(random: Random, frontend: int, endpoint: str, number: int) -> ServingCall:
    call = ServingCall(0.0, frontend, endpoint, Work(number + 1, 0))
    call.prompt = random.choice((1, 3, 8, 20, 40))
    call.shared = random.choice((0, 0, 9, 24))
    call.max_tokens = random.choice((0, 1, 4, 12, 12, 25, 50))
    call.min_tokens = random.choice((0, 0, 0, 3))
    if random.random() < 0.25:
        call.stop_at = random.randrange(0, 12)
    call.heeds_end = random.random() < 0.3
    call.logprobs = random.choice((-1, -1, -1, -1, 0, 2))
    call.priority = random.choice((0, 0, 0, -1, 1))
    call.salt = random.choice(("", "", "", "salt"))
    call.routed = random.random() < 0.85
    call.policy = random.choice(POLICIES)
    call.moves_max = random.choice((3, 3, 8))
    if random.random() < 0.02:
        call.prompt, call.shared, call.max_tokens, call.stop_at = 3, 0, 120, -1  # it runs for longer than a hang lasts
    return call


def _cancel(random: Random, call: ServingCall) -> None:
    call.cancel = random.choice(("stop", "kill", "kill"))
    call.when = random.choice(("at", "position", "end"))
    if call.when == "at":
        call.value = random.choice((0.0, 0.001, random.uniform(0, 0.1), random.uniform(0, 1.5)))
    elif call.when == "position":
        call.value = float(random.randint(1, max(1, call.max_tokens)))
    else:
        call.value = random.uniform(0.0, 0.002)


def _impatience(random: Random, call: ServingCall) -> None:
    if random.random() < 0.12:
        call.timeout_s = random.choice((0.05, 0.5, 2.0, 6.0))
    if random.random() < 0.1:
        call.stall_s = random.choice((0.5, 1.0, 3.0))
    if random.random() < 0.04:
        call.pinned, call.policy = 0, "direct"


def _flood(random: Random, frontends: list[int], endpoints: list[str], calls: list[ServingCall]) -> list[ServingCall]:
    """Many short requests at once."""
    at_s = random.choice(calls).at_s
    frontend, endpoint = random.choice(frontends), random.choice(endpoints)
    flood = []
    for number in range(random.choice((10, 20, 30))):
        call = ServingCall(at_s + random.uniform(0, 0.05), frontend, endpoint, Work(100 + number, 0))
        call.prompt, call.max_tokens = random.choice((1, 3, 8)), random.choice((1, 1, 2, 5))
        flood.append(call)
    return flood


def _crowd(random: Random, plan: ServingPlan) -> None:
    """Some seeds have most of their calls shortly before a fault, when it hurts."""
    if plan.faults and (plan.profile == DRAIN or random.random() < 0.6):
        for call in plan.calls:
            if random.random() < 0.8:
                lasts_s = max(0.05, call.max_tokens * 0.04)
                fault = random.choice(plan.faults)
                during_s = min(fault.for_s, MEANWHILE_S) if random.random() < 0.4 else 0.0
                call.at_s = max(CALLS_FROM_S, fault.at_s + random.uniform(-lasts_s, during_s))
