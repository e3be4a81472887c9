"""Workers with real block pools in virtual time, placed by an advisor: for tests of what placing does to a mesh."""

from heapq import heappop, heappush
from random import Random

from msgspec import Struct
from xxhash import xxh3_64_intdigest

from nodes.contract.blocks import NONE, Pool, chain
from nodes.routing.advisor import Advisor, Asked
from nodes.routing.explain import Decision
from nodes.routing.hashes import pack
from nodes.routing.knobs import read
from nodes.routing.publisher import Publisher
from proto.basics import LegName
from proto.placing import Blocks, Settled, Wish

BLOCK = 16
PREFILL_TOKENS_PER_S = 20_000.0


class Outcome(Struct, frozen=True):
    """What placing did."""

    ratio: float  # of prompt tokens that were found in a cache
    best: float  # that one cache of everything would have had
    wait_s: float  # for the first token, on average
    unevenness: float  # the busiest worker's requests, as a multiple of the mean
    computed: int  # tokens


class Engine:
    """Prefill one after the other, decode beside it."""

    def __init__(self, node: int, blocks: int) -> None:
        self.node = node
        self.pool = Pool(blocks)
        self.publisher = Publisher(blocks=blocks)
        self.free_at = 0.0
        self.requests = 0


class Fleet:
    """Drives an advisor with requests, and reports what came of them."""

    def __init__(self, workers: int, blocks: int = 20_000, policy: str = "kv", seed: int = 1, **knobs: object) -> None:
        self.random = Random(seed)
        self.policy = policy
        self.advisor = Advisor(read(knobs), Random(seed))
        self.engines = {node: Engine(node, blocks) for node in range(1, workers + 1)}
        for node in self.engines:
            self.advisor.up(node, 0.0)
            self.advisor.heard(node, Blocks(0, 1, 0), 0.0)
        self.events: list[tuple[float, int, str, tuple[object, ...]]] = []
        self.count = 0
        self.tokens = self.cached = 0
        self.waits: list[float] = []
        self.ever: set[int] = set()
        self.best = 0  # tokens that one cache of everything would have had

    def at(self, when: float, what: str, *details: object) -> None:
        self.count += 1
        heappush(self.events, (when, self.count, what, details))

    def ask(self, when: float, tokens: "list[int]", decode_s: float) -> None:
        self.at(when, "arrive", tokens, decode_s)

    def run(self) -> Outcome:
        while self.events:
            now, _, what, details = heappop(self.events)
            getattr(self, what)(now, *details)
        return self.outcome()

    def arrive(self, now: float, tokens: "list[int]", decode_s: float) -> None:
        request = self.count
        names = chain(tokens, BLOCK, 0, xxh3_64_intdigest)
        engine = self.engines[self.place(request, names, len(tokens), now)]
        engine.requests += 1
        held = next((at for at, name in enumerate(names) if name not in self.ever), len(names))
        self.best += held * BLOCK
        self.at(max(now, engine.free_at), "prefill", request, engine, tokens, names, decode_s, now)
        engine.free_at = max(now, engine.free_at) + 1e-9

    def place(self, request: int, names: "list[int]", tokens: int, now: float) -> int:
        if self.policy == "round_robin":
            return request % len(self.engines) + 1
        decision = self.advisor.place(Asked(request, 1, Wish(pack(names), tokens, BLOCK)), self.engines, now)
        assert isinstance(decision, Decision) and decision.rank
        return decision.rank[0]

    def prefill(
        self,
        now: float,
        request: int,
        engine: Engine,
        tokens: "list[int]",
        names: "list[int]",
        decode_s: float,
        came: float,
    ) -> None:
        if engine.free_at > now + 1e-6:
            self.at(engine.free_at, "prefill", request, engine, tokens, names, decode_s, came)
            return
        here = engine.pool.idle_among(names)[0]
        taken = engine.pool.share(names[:here])
        self.tokens += len(tokens)
        self.cached += here * BLOCK
        engine.free_at = now + (len(tokens) - here * BLOCK) / PREFILL_TOKENS_PER_S
        self.waits.append(engine.free_at - came)
        self.at(engine.free_at, "decode", request, engine, names, taken, decode_s)

    def decode(
        self, now: float, request: int, engine: Engine, names: "list[int]", taken: "list[int]", decode_s: float
    ) -> None:
        for at in range(len(taken), len(names)):
            block = engine.pool.take(taken[-1] if taken else NONE)
            if block == NONE:
                break
            taken.append(block)
            engine.pool.store(block, names[at], names[at - 1] if at else 0, [])
        self.ever.update(names)
        self.tell(engine, now)
        self.advisor.settled(Settled([LegName(request, 1)]), now)
        self.at(now + decode_s, "end", request, engine, taken)

    def end(self, now: float, request: int, engine: Engine, taken: "list[int]") -> None:
        engine.pool.release(taken)
        self.tell(engine, now)
        self.advisor.settled(Settled(freed=[LegName(request, 1)]), now)

    def tell(self, engine: Engine, now: float) -> None:
        engine.publisher.feed(engine.pool.events)
        engine.pool.events.clear()
        for message in engine.publisher.told():
            assert not self.advisor.heard(engine.node, message, now)

    def outcome(self) -> Outcome:
        """What came of it, once all is over."""
        for engine in self.engines.values():
            engine.pool.check()
            engine.publisher.check()
        self.advisor.tracking.check()
        assert len(self.advisor.tracking) == 0, "a request is still counted"
        counts = [engine.requests for engine in self.engines.values()]
        return Outcome(
            ratio=self.cached / self.tokens,
            best=self.best / self.tokens,
            wait_s=sum(self.waits) / len(self.waits),
            unevenness=max(counts) * len(counts) / sum(counts),
            computed=self.tokens - self.cached,
        )
