"""Pure. Which models the mesh serves, by which workers, and with which texts: what the registry decides.

A worker offers a model; its card says which files the model has, by their digest. The files of a digest are fetched
once. A model is what its first worker says it is: a worker with other files under the same name gets no request, until
the last of the first kind has gone.
"""

from collections.abc import Mapping
from math import inf
from typing import Generic, TypeVar

from msgspec import Struct, field

from nodes import names
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


Effect = FetchCard | Fetch | Note


class Worker(Struct):
    """One worker, as far as its model goes."""

    model: str
    card: ModelCard | None = None
    failures: int = 0
    retry_at: float = inf


class Model(Struct, Generic[T]):
    """One model, known from its first card on."""

    name: str
    card: ModelCard  # of the first worker that has the digest
    workers: dict[int, None] = field(default_factory=dict)  # that have the digest and are there
    others: dict[int, None] = field(default_factory=dict)  # that offer the name and are not, or not yet, to be used


class Models(Generic[T]):
    """All models that were ever offered here. `T`: what is built of a model's files."""

    def __init__(self) -> None:
        self.models: dict[str, Model[T]] = {}
        self.texts: dict[str, T] = {}  # by digest
        self.refused = 0
        self._workers: dict[int, Worker] = {}
        self._building: dict[str, int] = {}  # by digest, from which node
        self._failed: dict[str, tuple[int, float]] = {}  # by digest: failures, and when to try again

    # --- Questions ---------------------------------------------------------------------------------------

    def text(self, name: str) -> T | None:
        """What was built for a model; None while it is not there."""
        model = self.models.get(name)
        return None if model is None else self.texts.get(model.card.digest)

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
        there = {node: names.model_of(endpoint) for endpoint, nodes in found.items() for node in nodes}
        for node in [node for node, worker in self._workers.items() if there.get(node) != worker.model]:
            self._remove(node)
        for node, name in there.items():
            if node not in self._workers and name and len(self._workers) < limits.MODELS_MAX:
                self._workers[node] = Worker(name)
                effects.append(FetchCard(node))
                if name in self.models:
                    self.models[name].others[node] = None
        return effects + self._settle(now)

    def card(self, node: int, card: ModelCard, now: float) -> list[Effect]:
        """A worker's card has come."""
        worker = self._workers.get(node)
        if worker is None:
            return []
        if card.model != worker.model:
            return self.card_failed(node, f"its card is of {card.model!r}", now)
        worker.card, worker.failures, worker.retry_at = card, 0, inf
        effects: list[Effect] = []
        model = self.models.get(card.model)
        if model is None:
            model = self.models[card.model] = Model(card.model, card)
        if card.digest == model.card.digest:
            model.workers[node] = None
            model.others.pop(node, None)
        else:
            model.others[node] = None
            if model.workers:
                self.refused += 1
                effects.append(Note(_other_files(node, card, model.card)))
        return effects + self._settle(now)

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

    def _remove(self, node: int) -> None:
        worker = self._workers.pop(node)
        model = self.models.get(worker.model)
        if model is not None:
            model.workers.pop(node, None)
            model.others.pop(node, None)

    def _settle(self, now: float) -> list[Effect]:
        """Adopt what has become the only kind, fetch what is missing, forget what nobody needs."""
        effects: list[Effect] = []
        for model in self.models.values():
            if not model.workers and model.others:
                effects += self._adopt(model)
            effects += self._fetch(model, now)
        needed = {model.card.digest for model in self.models.values()}
        for digest in [digest for digest in self.texts if digest not in needed]:
            del self.texts[digest]
        return effects

    def _adopt(self, model: Model[T]) -> list[Effect]:
        """The last worker of a kind has gone and there is another kind: from now on the model is that."""
        cards = [(node, self._workers[node].card) for node in model.others]
        found = next((card for _, card in cards if card is not None), None)
        if found is None:
            return []
        changed = found.digest != model.card.digest
        model.card = found
        for node, card in cards:
            if card is not None and card.digest == found.digest:
                model.workers[node] = None
                del model.others[node]
        return [Note(f"the model {model.name!r} has new files: {found.digest}")] if changed else []

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


def _other_files(node: int, card: ModelCard, first: ModelCard) -> str:
    return (
        f"node {node:016x} serves {card.model!r} with other files ({card.digest}) than the workers before it "
        f"({first.digest}): it gets no requests; give it the same files or another name"
    )
