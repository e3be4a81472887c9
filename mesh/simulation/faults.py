"""Pure. Fault plans, swarm style: each seed has a few kinds of faults, at rates that differ wildly; some have a plot.

All lasting faults end by the time at which the plan heals. A place that does not exist any more is spared.
"""

from random import Random

from mesh.simulation.nemesis import BACK, BOTH, OTHER_ADDRESS, THERE
from mesh.simulation.plan import BUSIEST, Fault, Plan

FROM_S = 1.0
LONG_S = 11.0  # a hang is noticed after 5 s, and what moves then must show within 7.5 s
LAST_S = 0.5  # before the end, for what must still be restarted
SIMPLE = (
    *("crash", "crash", "kill_acceptor", "freeze", "freeze", "suspend", "hang", "slow"),
    *("reset", "drop_after_submit", "cut", "cut", "drain", "drain", "forget_held", "forget_claim"),
    *("foreign", "stranger"),
)  # fmt: skip
PLOTS = ("single", "swizzle", "drain_cut", "long", "clog")


def draw(random: Random, plan: Plan) -> list[Fault]:
    """The faults of a plan."""
    if plan.profile == "drain":
        return _rolling_restart(random, plan)
    plot = random.choice((None, None, None, None, None, *PLOTS))
    if plot == "single":
        found = [one(random, plan, random.choice(SIMPLE))]
    elif plot == "swizzle":
        found = _swizzle(random, plan)
    elif plot == "drain_cut":
        found = _drain_cut(random, plan)
    elif plot == "clog":
        found = _clog(random, plan)
    elif plot == "long":
        found = _long(random, plan)
    else:
        found = _swarm(random, plan)
    return sorted(found, key=lambda fault: fault.at_s)


def _swarm(random: Random, plan: Plan) -> list[Fault]:
    kinds = random.sample(SIMPLE, random.choice((1, 2, 2, 3, 5, len(SIMPLE))))
    weights = [random.choice((1, 1, 3, 10)) for _ in kinds]
    count = random.choice((1, 2, 2, 3, 4, 6, 10))
    return [one(random, plan, kind) for kind in random.choices(kinds, weights, k=count)]


def one(random: Random, plan: Plan, kind: str) -> Fault:
    """A fault of a kind."""
    holders = [number for number, place in enumerate(plan.places) if place.offers]
    clients = [number for number, place in enumerate(plan.places) if not place.offers and place.mesh == "sim"]
    at_s = random.uniform(FROM_S, plan.heal_s - 1.5)
    victim = random.choice(holders) if random.random() < 0.6 else random.choice(clients)
    aimed = random.random() < 0.6
    fault = Fault(at_s, kind, BUSIEST if aimed else victim)
    room_s = plan.heal_s - LAST_S - at_s
    if kind == "kill_hander":
        fault.for_s, fault.amount = min(room_s, random.choice((0.05, 1.0))), random.choice((0.0, 1.0, 5.0, 40.0, 200.0))
    elif kind in ("crash", "kill_acceptor"):
        fault.for_s = min(room_s, random.choice((0.05, 0.3, 1.0, 3.0)))
        fault.amount = random.choice((0, 0, OTHER_ADDRESS)) if plan.discovery else 0
    elif kind in ("freeze", "suspend", "hang"):
        fault.for_s = min(room_s, random.choice((0.2, 0.9, 1.2, 2.0, 3.5, 6.0)))
        if kind == "hang":
            fault.place = BUSIEST if aimed else random.choice(holders)
            if random.random() < 0.6:
                fault.for_s = room_s
    elif kind == "slow":
        fault.for_s = min(room_s, random.choice((0.5, 2.0, 5.0)))
        fault.amount = random.choice((2.0, 10.0, 50.0))
    elif kind in ("reset", "cut"):
        if not aimed:
            fault.place, fault.other = random.choice(holders), random.choice(clients)
        fault.amount = random.choice((BOTH, BOTH, THERE, BACK)) if kind == "cut" else random.choice((0, 1))
        fault.for_s = min(room_s, random.choice((0.1, 1.0, 2.0, 3.5, 6.0))) if kind == "cut" else 0.0
    elif kind == "drain":
        fault.for_s, fault.amount = random.choice((0.2, 1.0)), random.choice((0.0, 0.5, 3.0, 6.0))
    return fault


def _rolling_restart(random: Random, plan: Plan) -> list[Fault]:
    """Every holder drains and comes back, one after the other."""
    holders = [number for number, place in enumerate(plan.places) if place.offers]
    found, at_s = [], 2.0
    for number in holders:
        found.append(Fault(at_s, "drain", number, for_s=random.choice((0.05, 0.3)), amount=6.0))
        at_s += random.choice((3.0, 4.0))
    plan.heal_s = at_s + 1.0
    return found


def _swizzle(random: Random, plan: Plan) -> list[Fault]:
    """Clog links one by one, and unclog them in another order."""
    holders = [number for number, place in enumerate(plan.places) if place.offers]
    clients = [number for number, place in enumerate(plan.places) if not place.offers and place.mesh == "sim"]
    pairs = [(holder, client) for holder in holders for client in clients]
    chosen = random.sample(pairs, random.randint(1, len(pairs)))
    start_s, step_s = random.uniform(FROM_S, 2.0), random.choice((0.05, 0.3, 0.8))
    ends = [plan.heal_s - LAST_S - index * 0.1 for index in range(len(chosen))]
    random.shuffle(ends)
    return [
        Fault(start_s + index * step_s, "cut", holder, client, max(0.1, end - start_s - index * step_s), BOTH)
        for index, ((holder, client), end) in enumerate(zip(chosen, ends, strict=True))
    ]


def _drain_cut(random: Random, plan: Plan) -> list[Fault]:
    """Somebody leaves, and cannot be heard."""
    holders = [number for number, place in enumerate(plan.places) if place.offers]
    clients = [number for number, place in enumerate(plan.places) if not place.offers and place.mesh == "sim"]
    holder, at_s = random.choice(holders), random.uniform(FROM_S, 3.0)
    delay_s = random.choice((-0.01, 0.0005, 0.02, 0.3))
    cuts = [Fault(at_s + delay_s, "cut", holder, client, random.choice((0.5, 2.0, 4.0)), BOTH) for client in clients]
    return [Fault(at_s, "drain", holder, for_s=0.3, amount=random.choice((0.5, 3.0))), *cuts]


def _long(random: Random, plan: Plan) -> list[Fault]:
    """One fault that lasts for longer than anybody waits, and nothing else: whoever can go on elsewhere must."""
    engines = [number for number, place in enumerate(plan.places) if place.engine]
    kind = random.choice(("hang", "hang", "freeze", "cut")) if engines else random.choice(("freeze", "cut"))
    plan.heal_s = LONG_S
    at_s = random.uniform(1.2, 2.5)
    fault = Fault(at_s, kind, BUSIEST, for_s=plan.heal_s - LAST_S - at_s)
    if kind == "hang":
        fault.place = random.choice(engines)
    elif kind == "cut":
        fault.amount = random.choice((BOTH, THERE, BACK))
    return [fault]


def _clog(random: Random, plan: Plan) -> list[Fault]:
    """What a holder says is late, and its callers are impatient: they move, and then all of it comes."""
    for call in plan.calls:
        call.stall_s = random.choice((0.0, 0.3, 0.6))
    times = sorted(random.uniform(FROM_S, plan.heal_s - 3.0) for _ in range(random.choice((1, 2))))
    return [
        Fault(at_s, "cut", BUSIEST, for_s=random.choice((0.8, 1.5, 2.5)), amount=random.choice((THERE, BOTH)))
        for at_s in times
    ]
