"""Pools: cores on a wire, two pools of workers, and a global router between them and a client."""

from typing import Any

import pytest

from mesh.core import Start, Want, Yielded
from mesh.routing import ROUTER
from nodes.names import ENCODE, GENERATE, POOL, PREFILL
from nodes.routing.itinerary import lines, unique
from nodes.routing.knobs import read
from nodes.routing.placer import Placer
from nodes.routing.pooling import DEFAULT, Pools, Promise
from nodes.routing.pools import Axis, Pool, Table
from nodes.routing.split import SplitKnobs
from proto.errors import Reason
from proto.messages import Role
from proto.placing import Place, Report, Settled
from tests.nodes.routing.mesh import GEN, PRE, Mesh, prompt, wish

FIRST = Axis("first_token_ms", 0, 1000, 2)
TABLE = Table((Pool("quick"), Pool("cheap", slowness=1)), (FIRST,), ("quick", "cheap"), retry="any")


class Pooled(Mesh):
    """A mesh whose router knows pools."""

    def pools(self, table: Table = TABLE, promise: Promise | None = None, policy: str = "kv", **knobs: object) -> int:
        placers = {pool.name: Placer(policy, read(knobs), SplitKnobs(uncached_tokens_max=0)) for pool in table.pools}
        self.aide = Pools(table, placers, promise)
        self.of = placers
        node = self._node(Role.ROUTER, ROUTER, aide=self.aide, policy="least_loaded")
        for want in (GENERATE, PREFILL, ENCODE, ROUTER):
            self.wire.tell(node, Want(want))
        self.wire.settle()
        return node

    def member(self, pool: str, *endpoints: str) -> int:
        return self.worker(*(endpoints or (GEN,)), POOL + pool)

    def fast(self, client: int, ms: int, seed: int = 1) -> int:
        """Who gets a request with this target; it is over at once."""
        request = self.ask(client, prompt(seed), wish=wish(prompt(seed), first_token_ms=ms))
        holder = self.holder(client, request)
        self.end(client, request)
        return holder


@pytest.fixture
def mesh() -> Pooled:
    return Pooled()


def test_the_table_says_which_pool(mesh: Pooled) -> None:
    mesh.pools()
    quick, cheap, client = mesh.member("quick"), mesh.member("cheap"), mesh.client()
    assert [mesh.fast(client, ms, ms) for ms in (100, 900, 100, 900)] == [quick, cheap, quick, cheap]
    assert mesh.placed(client).why.startswith("first_token_ms 900 goes to cheap; ")
    assert mesh.aide.placed == {"quick": 2, "cheap": 2} and mesh.aide.spilled == {"quick": 0, "cheap": 0}


def test_who_names_no_target_gets_what_is_promised(mesh: Pooled) -> None:
    mesh.pools(promise=Promise(first_token_ms=100))
    quick, cheap, client = mesh.member("quick"), mesh.member("cheap"), mesh.client()
    assert mesh.fast(client, 0) == quick
    assert mesh.fast(client, 900) == cheap


def test_a_pool_that_dies_is_replaced_and_used_again_when_it_is_back(mesh: Pooled) -> None:
    mesh.pools()
    quick, cheap, client = mesh.member("quick"), mesh.member("cheap"), mesh.client()
    mesh.wire.crash(quick)
    assert mesh.fast(client, 100) == cheap
    assert "but quick has no worker: cheap" in mesh.placed(client).why
    assert mesh.aide.spilled == {"quick": 1, "cheap": 0}
    again = mesh.member("quick")
    assert mesh.fast(client, 100) == again


def test_within_a_pool_caches_decide_and_other_pools_do_not(mesh: Pooled) -> None:
    mesh.pools()
    members, cheap, client = [mesh.member("quick") for _ in range(3)], mesh.member("cheap"), mesh.client()
    mesh.store(members[1], prompt(1))
    mesh.store(cheap, prompt(2))
    for worker in members:
        mesh.reports[worker].append(Report(step_tokens=512))
    assert mesh.fast(client, 100, 1) == members[1]
    assert mesh.fast(client, 100, 2) in members, "what another pool has cached is of no use here"
    assert mesh.fast(client, 900, 2) == cheap


def test_prefill_workers_are_of_the_same_pool(mesh: Pooled) -> None:
    mesh.pools()
    quick, client = mesh.member("quick"), mesh.client()
    mesh.member("cheap", PRE)
    mesh.fast(client, 100, 1)
    assert mesh.placed(client).itinerary == [quick]
    feeder = mesh.member("quick", PRE)
    mesh.ask(client, prompt(2), wish=wish(prompt(2), first_token_ms=100))
    assert mesh.placed(client).itinerary == [feeder, quick]


def test_who_is_tagged_with_no_pool_is_of_the_default_one(mesh: Pooled) -> None:
    mesh.pools(Table((Pool(DEFAULT),)))
    plain, client = mesh.worker(), mesh.client()
    mesh.member("elsewhere")
    assert {mesh.fast(client, 0, seed) for seed in range(4)} == {plain}


def test_no_pool_may_have_it(mesh: Pooled) -> None:
    router = mesh.pools(Table(TABLE.pools, TABLE.axes, TABLE.cells, retry="none"))
    cheap, client = mesh.member("cheap"), mesh.client()
    mesh.member("cheap")
    request = mesh.ask(client, prompt(1), wish=wish(prompt(1), first_token_ms=100), patience_s=1.0)
    placed = mesh.placed(client)
    assert placed.itinerary == [] and placed.endpoints == [GEN], "who asked must not go elsewhere"
    assert "no worker is ready" in placed.why
    mesh.wire.advance(2.0)
    finish = mesh.wire.finished(client, request)
    assert finish is not None and finish.reason is Reason.UNAVAILABLE and "goes to quick" in finish.text
    assert mesh.wire.said(client, router, Place) and not mesh.wire.said(client, cheap, Place)


def test_a_pool_over_its_thresholds_spills(mesh: Pooled) -> None:
    mesh.pools(busy_prefill_tokens=100)
    quick, cheap, client = mesh.member("quick"), mesh.member("cheap"), mesh.client()
    mesh.reports[quick].append(Report(9, 3, 5_000, 500, 1_000, 512))
    mesh.wire.advance(1.0)
    assert mesh.fast(client, 100) == cheap
    assert mesh.aide.spilled["quick"] == 1


def test_where_all_are_busy_the_wanted_pool_says_so(mesh: Pooled) -> None:
    mesh.pools(busy_prefill_tokens=100)
    members, client = [mesh.member("quick"), mesh.member("quick"), mesh.member("cheap")], mesh.client()
    for member in members:
        mesh.reports[member].append(Report(9, 3, 5_000, 500, 1_000, 512))
    mesh.wire.advance(1.0)
    request = mesh.ask(client, prompt(1), wish=wish(prompt(1), first_token_ms=100))
    finish = mesh.wire.finished(client, request)
    assert finish is not None and finish.reason is Reason.BUSY
    assert finish.text == "first_token_ms 100 goes to quick; kv: all 2 that could take it are busy"


def test_of_a_node_that_is_gone_nothing_is_kept(mesh: Pooled) -> None:
    mesh.pools(policy="least_loaded")
    quick, client = mesh.member("quick"), mesh.client()
    mesh.fast(client, 100)
    assert mesh.aide._choosing["quick"]._advised and mesh.aide._pool_of
    mesh.wire.crash(quick)
    mesh.wire.settle()
    assert not mesh.aide._choosing["quick"]._advised and not mesh.aide._pool_of
    mesh.pools()
    again = mesh.member("quick")
    assert list(mesh.of["quick"].advisors) == [GEN]
    mesh.wire.crash(again)
    mesh.wire.settle()
    assert not mesh.of["quick"].advisors


def test_only_the_pool_that_has_a_request_hears_of_its_end(mesh: Pooled, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh.pools()
    mesh.member("quick"), mesh.member("cheap")
    client = mesh.client()
    request = mesh.ask(client, prompt(1), wish=wish(prompt(1), first_token_ms=100))
    assert sum(mesh.of["quick"].advisors[GEN].tracking.requests) == 1
    heard: list[Any] = []

    def hears(*words: Any) -> bool:
        heard.append(words)
        return True

    monkeypatch.setattr(mesh.of["cheap"], "received", hears)
    mesh.first(client, request)
    mesh.end(client, request)
    assert sum(mesh.of["quick"].advisors[GEN].tracking.requests) == 0
    assert not [words for words in heard if isinstance(words[1], Settled)]
    assert not mesh.aide._pool_for


def test_a_request_that_moves_to_another_pool_counts_only_there(mesh: Pooled) -> None:
    mesh.pools()
    quick, cheap, client = mesh.member("quick"), mesh.member("cheap"), mesh.client()
    request = mesh.ask(client, prompt(1), wish=wish(prompt(1), first_token_ms=100))
    assert mesh.holder(client, request) == quick
    leg = mesh.wire.did(quick, Start)[-1].leg
    mesh.wire.tell(quick, Yielded(leg, Reason.PREEMPT))
    mesh.wire.advance(0.1)
    assert mesh.holder(client, request) == cheap
    counts = [sum(mesh.of[pool].advisors[GEN].tracking.requests) for pool in ("quick", "cheap")]
    assert counts == [0, 1]
    mesh.end(client, request)
    assert sum(mesh.of["cheap"].advisors[GEN].tracking.requests) == 0


def test_a_node_of_a_pool_that_the_table_does_not_name_is_shown(mesh: Pooled) -> None:
    mesh.pools()
    stranger, client = mesh.member("elsewhere"), mesh.client()
    mesh.ask(client, prompt(1), patience_s=0.5)
    assert not mesh.placed(client).itinerary

    def unlisted() -> float:
        families = {family.name: family for family in mesh.aide.families()}
        return families["wiremesh_pool_unlisted_nodes"].samples[0].value

    assert unlisted() == 1
    mesh.wire.crash(stranger)
    mesh.wire.settle()
    assert unlisted() == 0


def test_two_routers_of_pools_tell_each_other(mesh: Pooled) -> None:
    mesh.pools()
    first = dict(mesh.of)
    mesh.pools()
    mesh.member("quick"), mesh.member("cheap")
    client = mesh.client()
    mesh.ask(client, prompt(1), wish=wish(prompt(1), first_token_ms=100))
    mesh.wire.advance(0.1)
    counts = [sum(placers["quick"].advisors[GEN].tracking.requests) for placers in (first, mesh.of)]
    assert counts == [1, 1]


def test_questions(mesh: Pooled) -> None:
    mesh.pools()
    quick, cheap, client = mesh.member("quick"), mesh.member("cheap"), mesh.client()
    mesh.store(cheap, prompt(1))
    request = mesh.ask(client, prompt(1), wish=wish(prompt(1), first_token_ms=100))
    aide, now = mesh.aide, mesh.wire.now
    assert aide.best(GEN, "", (), wish(prompt(1), first_token_ms=900), now).node == cheap
    assert aide.best(GEN, "", (cheap,), wish(prompt(1), first_token_ms=900), now).node == quick
    assert aide.best("other.thing", "", (), None, now).node == 0
    told = aide.told(unique(client, request), now)
    assert told is not None and told.stops[-1].node == quick
    assert told.why.endswith(told.stops[-1].why) and " goes to quick; " in told.why
    assert " goes to quick" in lines(told, {})[-1] and told.stops[-1].why not in lines(told, {})[-1]
    assert aide.overlaps(GEN, wish(prompt(1), first_token_ms=900), now) is not None
    assert list(aide.advisors) == [f"{GEN}@quick", f"{GEN}@cheap"]
    names = {family.name: family for family in aide.families()}
    assert [sample.value for sample in names["wiremesh_pool_nodes"].samples] == [1, 1]


@pytest.mark.parametrize("policy", ["round_robin", "least_loaded"])
def test_plain_policies_stay_within_the_pool(mesh: Pooled, policy: str) -> None:
    mesh.pools(policy=policy)
    members, client = [mesh.member("quick") for _ in range(3)], mesh.client()
    mesh.member("cheap")
    found = [mesh.fast(client, 100, seed) for seed in range(6)]
    assert sorted(found) == sorted(members * 2)
