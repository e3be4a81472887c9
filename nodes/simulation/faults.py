"""Pure. Fault plans for serving meshes, swarm style: few kinds per seed, at rates that differ."""

from random import Random

from mesh.simulation.nemesis import BACK, BOTH, OTHER_ADDRESS, THERE
from mesh.simulation.plan import BUSIEST, Fault
from nodes.simulation.plan import ENCODER, FRONTEND, ROUTER, WORKER, ServingPlan

FROM_S = 0.8
LAST_S = 0.5  # before the end, for what must still be restarted
SIMPLE = (
    *("crash", "crash", "kill_acceptor", "freeze", "freeze", "suspend", "hang", "hang", "slow"),
    *("reset", "drop_after_submit", "cut", "cut", "drain", "drain", "forget_held", "forget_claim"),
    *("kill_hander", "kill_hander", "engine_crash", "engine_crash", "engine_slow", "clock", "router", "router"),
)  # fmt: skip
LASTING = ("freeze", "suspend", "hang")


def places(plan: ServingPlan, kind: str) -> list[int]:
    """Where those of a kind live."""
    return [number for number, place in enumerate(plan.places) if place.kind == kind]


def swarm(random: Random, plan: ServingPlan) -> list[Fault]:
    """A few kinds of faults."""
    kinds = random.sample(SIMPLE, random.choice((1, 2, 2, 3, 5)))
    weights = [random.choice((1, 1, 3, 10)) for _ in kinds]
    count = random.choice((1, 2, 2, 3, 4, 6))
    return [one(random, plan, kind) for kind in random.choices(kinds, weights, k=count)]


def one(random: Random, plan: ServingPlan, kind: str) -> Fault:
    """One fault of a kind."""
    workers, frontends, routers = (places(plan, name) for name in (WORKER, FRONTEND, ROUTER))
    workers += places(plan, ENCODER)
    at_s = random.uniform(FROM_S, plan.heal_s - 1.5)
    aimed = random.random() < 0.6
    if kind == "router":  # something happens to a router
        kind, aimed = random.choice(("crash", "freeze", "cut", "drain", "slow")), False
        victim = random.choice(routers or workers)
    else:
        victim = random.choice(workers) if random.random() < 0.7 else random.choice(frontends)
    fault = Fault(at_s, kind, BUSIEST if aimed else victim)
    room_s = plan.heal_s - LAST_S - at_s
    if kind == "kill_hander":
        fault.for_s, fault.amount = (
            min(room_s, random.choice((0.05, 1.0))),
            random.choice((0.0, 5.0, 40.0, 100.0, 300.0)),
        )
    elif kind in ("crash", "kill_acceptor"):
        fault.for_s = min(room_s, random.choice((0.05, 0.3, 1.0, 3.0)))
        fault.amount = random.choice((0, 0, OTHER_ADDRESS)) if plan.discovery else 0
    elif kind in LASTING:
        fault.for_s = min(room_s, random.choice((0.2, 0.9, 1.2, 2.0, 3.5, 6.0)))
    elif kind == "slow":
        fault.for_s, fault.amount = min(room_s, random.choice((0.5, 2.0))), random.choice((2.0, 10.0, 50.0))
    elif kind == "engine_slow":
        fault.for_s, fault.amount = min(room_s, random.choice((0.5, 2.0))), random.choice((3.0, 20.0))
    elif kind == "clock":
        fault.amount = random.choice((0.3, 1.5, 4.0, 20.0))
    elif kind in ("reset", "cut"):
        if not aimed:
            fault.place, fault.other = victim, random.choice([other for other in frontends if other != victim] or [0])
        fault.amount = random.choice((BOTH, BOTH, THERE, BACK)) if kind == "cut" else random.choice((0, 1))
        fault.for_s = min(room_s, random.choice((0.1, 1.0, 2.0, 3.5, 6.0))) if kind == "cut" else 0.0
    elif kind == "drain":
        fault.for_s, fault.amount = random.choice((0.2, 1.0)), random.choice((0.0, 0.5, 3.0, 6.0))
    return fault


def rolling(random: Random, plan: ServingPlan) -> list[Fault]:
    """Every worker, encoder and router drains and comes back, one after the other."""
    found, at_s = [], 1.5
    for number in (*places(plan, WORKER), *places(plan, ENCODER), *places(plan, ROUTER)):
        found.append(Fault(at_s, "drain", number, for_s=random.choice((0.05, 0.3)), amount=6.0))
        at_s += random.choice((1.5, 2.5))
    plan.heal_s = at_s + 0.5
    return found
