"""Pure. Which models the mesh serves, by which workers, and with which texts: what the registry decides.

A worker offers a model; its card says what the model's tokens mean, by a digest. The files of a digest are fetched
once. A model is what its first worker says it is (of several that come together, what the oldest says): a worker that
means something else gets no request, until the last of the first kind has gone, and is told so. Engines, number formats
and weights may differ: the model has what all of its workers have. But prompts are computed by who has the weights of
somebody who goes on with them: another's cache is of no use, and its first token would be another model's.
"""

from collections.abc import Mapping
from math import inf
from typing import Generic, TypeVar

from msgspec import Struct, field

from nodes import names
from nodes.agreement import differences
from nodes.card import ModelCard
from nodes.frontend import limits

T = TypeVar("T")


class FetchCard(Struct, frozen=True):
    """Ask a worker for its card."""

    node: int


class Fetch(Struct, frozen=True):
    """Fetch the files of a card from a worker, and build a model's texts of them."""

    node: int
    card: ModelCard


class Note(Struct, frozen=True):
    """Say this in the log."""

    text: str


class Object(Struct, frozen=True):
    """Tell a worker why it gets no requests; with nothing to say, that it gets some again."""

    node: int
    text: str = ""


Effect = FetchCard | Fetch | Note | Object


class Worker(Struct):
    """One worker, as far as its model goes."""

    model: str
    feeds: bool = False  # it computes prompts for others, and generates nothing
    card: ModelCard | None = None
    failures: int = 0
    retry_at: float = inf


ADAPTER = ":"  # between a model's name and an adapter's


class Model(Struct, Generic[T]):
    """One model, known from its first card on."""

    name: str
    card: ModelCard  # of the first worker that has the digest
    workers: dict[int, None] = field(default_factory=dict)  # that generate, have the digest and are there
    others: dict[int, None] = field(default_factory=dict)  # that offer the name and are not, or not yet, to be used
    context: int = 0  # positions that any of its workers has
    vocabulary: int = 0  # tokens, likewise
    guides: bool = False  # whether all of them keep to a guide
    unseeded: str = ""  # how those have to be started that heed no seed
    feeders: tuple[str, ...] = ()  # who has to compute a prompt before some of them go on with it


class Models(Generic[T]):
    """All models that were ever offered here. `T`: what is built of a model's files."""

    def __init__(self) -> None:
        self.models: dict[str, Model[T]] = {}
        self.texts: dict[str, T] = {}  # by digest
        self.refused = 0
        self._workers: dict[int, Worker] = {}
        self._building: dict[str, int] = {}  # by digest, from which node
        self._failed: dict[str, tuple[int, float]] = {}  # by digest: failures, and when to try again
        self._told: dict[int, str] = {}  # workers that were told why they get no requests

    # --- Questions ---------------------------------------------------------------------------------------

    def text(self, name: str) -> T | None:
        """What was built for a model; None while it is not there."""
        model = self.models.get(name)
        return None if model is None else self.texts.get(model.card.digest)

    def named(self, name: str) -> tuple[str, str]:
        """A model and, behind a colon, one of its LoRA adapters; without one the second is empty."""
        if name in self.models:
            return name, ""
        base, _, lora = name.rpartition(ADAPTER)
        model = self.models.get(base)
        return (base, lora) if model is not None and lora in model.card.engine.loras else (name, "")

    def live(self) -> list[Model[T]]:
        """The models that would be served now."""
        return [model for model in self.models.values() if model.workers and model.card.digest in self.texts]

    def counts(self) -> dict[str, int]:
        """Workers by model; none while its files are not here."""
        served = {model.name: len(model.workers) for model in self.live()}
        return {name: served.get(name, 0) for name in self.models}

    def deadline(self) -> float:
        """When `tick` is wanted."""
        retries = [worker.retry_at for worker in self._workers.values()]
        return min([*retries, *(at for _, at in self._failed.values())], default=inf)

    # --- Events ------------------------------------------------------------------------------------------

    def offered(self, found: Mapping[str, tuple[int, ...]], now: float) -> list[Effect]:
        """Who offers what, all of it."""
        effects: list[Effect] = []
        there = {node: _offered(endpoint) for endpoint, nodes in found.items() for node in nodes}
        for node in [node for node, worker in self._workers.items() if there.get(node) != (worker.model, worker.feeds)]:
            del self._workers[node]
            self._told.pop(node, None)
        for node, (name, feeds) in there.items():
            if node not in self._workers and name and len(self._workers) < limits.MODELS_MAX:
                self._workers[node] = Worker(name, feeds)
                effects.append(FetchCard(node))
        return effects + self._settle(now)

    def card(self, node: int, card: ModelCard, now: float) -> list[Effect]:
        """A worker's card has come."""
        worker = self._workers.get(node)
        if worker is None:
            return []
        if card.model != worker.model:
            return self.card_failed(node, f"its card is of {card.model!r}", now)
        worker.card, worker.failures, worker.retry_at = card, 0, inf
        model = self.models.get(card.model)
        if model is None and not worker.feeds:
            self.models[card.model] = Model(card.model, card)
        elif model is not None and not worker.feeds and model.card.digest not in self.texts:
            # Nobody was served yet: frontends that see the same workers in another order shall choose the same.
            model.card = min(model.card, card, key=lambda one: (one.created, one.digest))
        return self._settle(now)

    def card_failed(self, node: int, why: str, now: float) -> list[Effect]:
        """A worker's card has not come, or is no good."""
        worker = self._workers.get(node)
        if worker is None:
            return []
        worker.failures += 1
        worker.retry_at = now + backoff_s(worker.failures)
        return [Note(f"no card of {worker.model!r} from node {node:016x}: {why}; trying again")]

    def built(self, digest: str, text: T, now: float) -> list[Effect]:
        """The texts of a digest are there."""
        self._building.pop(digest, None)
        self._failed.pop(digest, None)
        if any(model.card.digest == digest for model in self.models.values()):
            self.texts[digest] = text
        return self._settle(now)

    def build_failed(self, digest: str, why: str, now: float) -> list[Effect]:
        """They could not be fetched, or are no good."""
        self._building.pop(digest, None)
        failures = self._failed.get(digest, (0, 0.0))[0] + 1
        self._failed[digest] = (failures, now + backoff_s(failures))
        shown = [model.name for model in self.models.values() if model.card.digest == digest]
        return [Note(f"the files of {', '.join(map(repr, shown)) or digest} cannot be used: {why}; trying again")]

    def tick(self, now: float) -> list[Effect]:
        """Try again what is due."""
        effects: list[Effect] = []
        for node, worker in self._workers.items():
            if worker.retry_at <= now:
                worker.retry_at = inf
                effects.append(FetchCard(node))
        for digest, (failures, at) in list(self._failed.items()):
            if at <= now:
                self._failed[digest] = (failures, inf)
        return effects + self._settle(now)

    # --- Settling ----------------------------------------------------------------------------------------

    def _settle(self, now: float) -> list[Effect]:
        """Adopt what has become the only kind, fetch what is missing, forget what nobody needs."""
        effects: list[Effect] = []
        by_model: dict[str, dict[int, Worker]] = {}
        for node, worker in self._workers.items():
            by_model.setdefault(worker.model, {})[node] = worker
        for model in self.models.values():
            there = by_model.get(model.name, {})
            _sort(model, there)
            if not model.workers and model.others:
                effects += _adopt(model, there)
            effects += self._objections(model, there)
            effects += self._fetch(model, now)
        needed = {model.card.digest for model in self.models.values()}
        for digest in [digest for digest in self.texts if digest not in needed]:
            del self.texts[digest]
        return effects

    def _objections(self, model: Model[T], there: Mapping[int, Worker]) -> list[Effect]:
        """Tell each worker that gets no requests why, and each that gets some again that it does, once."""
        effects: list[Effect] = []
        if not model.workers:
            return effects
        for node, worker in there.items():
            if worker.card is None:
                continue
            text = _other(node, worker, worker.card, model.card) if node in model.others else ""
            if text == self._told.get(node, ""):
                continue
            if text:
                self.refused += 1
                effects.append(Note(text))
            self._told[node] = text
            effects.append(Object(node, text))
        return effects

    def _fetch(self, model: Model[T], now: float) -> list[Effect]:
        digest = model.card.digest
        if digest in self.texts or digest in self._building or not model.workers:
            return []
        failed = self._failed.get(digest)
        if failed is not None and now < failed[1] < inf:
            return []
        nodes = list(model.workers)
        node = nodes[(failed[0] if failed else 0) % len(nodes)]  # after a failure another one
        self._building[digest] = node
        return [Fetch(node, model.card)]


def backoff_s(failures: int) -> float:
    """How long to wait after so many failures in a row."""
    return float(min(limits.RETRY_BASE_S * 2 ** min(failures - 1, 16), limits.RETRY_MAX_S))


def _sort(model: Model[T], there: Mapping[int, Worker]) -> None:
    """Who of those that offer a model is to be used."""
    model.workers, model.others = {}, {}
    for node, worker in there.items():
        if worker.card is None or worker.card.digest != model.card.digest:
            model.others[node] = None
        elif not worker.feeds:
            model.workers[node] = None
    cards = [card for node in model.workers if (card := there[node].card) is not None] or [model.card]
    model.context = min(card.engine.context for card in cards)
    model.vocabulary = min(card.engine.vocabulary for card in cards)
    feeding = [worker.card for worker in there.values() if worker.feeds and worker.card is not None]
    model.guides = all(card.engine.guides for card in [*cards, *feeding])
    model.unseeded = next((card.engine.unseeded for card in [*cards, *feeding] if card.engine.unseeded), "")
    model.feeders = (names.PREFILL + model.name,) if any(card.engine.fed_only for card in cards) else ()
    builds = dict.fromkeys(map(_build, cards))
    for node, worker in there.items():
        if worker.feeds and worker.card is not None and model.workers and _build(worker.card) not in builds:
            model.others[node] = None


def _build(card: ModelCard) -> tuple[str, str]:
    """Who has the same can go on with each other's caches: those that an engine hands over itself are for it alone."""
    return card.build, card.engine.engine if card.engine.native else ""


def _adopt(model: Model[T], there: Mapping[int, Worker]) -> list[Effect]:
    """The last worker of a kind has gone and there is another kind: from now on the model is that."""
    known = [card for worker in there.values() if (card := worker.card) is not None and not worker.feeds]
    if not known:
        return []
    model.card = min(known, key=lambda one: (one.created, one.digest))
    _sort(model, there)
    return [Note(f"the model {model.name!r} has new files: {model.card.digest}")]


def _offered(endpoint: str) -> tuple[str, bool]:
    """The model that an endpoint is of, and whether it only computes its prompts."""
    return (names.model_of(endpoint), False) if names.model_of(endpoint) else (names.fed_by(endpoint), True)


def _other(node: int, worker: Worker, card: ModelCard, first: ModelCard) -> str:
    if card.digest == first.digest:
        return (
            f"node {node:016x} ({card.engine.engine}) computes prompts of {card.model!r} with other weights, files or "
            "engine than any worker that would go on with them: it gets no requests; give it the same"
        )
    does = "computes prompts of" if worker.feeds else "serves"
    return (
        f"node {node:016x} ({card.engine.engine}) {does} {card.model!r} with {differences(first.marks, card.marks)} "
        f"than the workers before it ({first.engine.engine}, files {first.files_digest or first.digest}): it gets no "
        "requests; give it the same model's files, or another name (--name-as)"
    )
