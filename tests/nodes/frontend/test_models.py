"""The models of a mesh: cards, files, workers that differ, and what is tried again."""

from itertools import permutations
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nodes.agreement import ENDS, TEMPLATE, TOKENIZER
from nodes.card import ModelCard
from nodes.contract.engine import Card
from nodes.frontend import limits
from nodes.frontend.models import Effect, Fetch, FetchCard, Models, Note, Object

ENGINE = Card("sim", "m", 100, 100, 1, 16, 10)


def card(digest: str, model: str = "m") -> ModelCard:
    return ModelCard(model, digest, {"tokenizer": 1}, ENGINE, 5)


def kinds(effects: list[Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def test_a_model_is_there_once_its_files_are() -> None:
    models: Models[str] = Models()
    assert models.offered({"generate/m": (1, 2)}, 0.0) == [FetchCard(1), FetchCard(2)]
    assert models.text("m") is None and not models.models
    assert models.card(1, card("d"), 0.0) == [Fetch(1, card("d"))]
    assert models.card(2, card("d"), 0.0) == [], "the files of a digest are fetched once"
    assert not models.live()
    models.built("d", "text", 0.0)
    [model] = models.live()
    assert models.text("m") == "text" and list(model.workers) == [1, 2] and models.counts() == {"m": 2}


def test_a_model_without_workers_is_known_and_not_live() -> None:
    models: Models[str] = Models()
    models.offered({"generate/m": (1,)}, 0.0)
    models.card(1, card("d"), 0.0)
    models.built("d", "text", 0.0)
    models.offered({}, 0.0)
    assert not models.live() and models.text("m") == "text" and not models.models["m"].workers


def test_other_files_under_the_same_name_get_nothing() -> None:
    models: Models[str] = Models()
    models.offered({"generate/m": (1, 2)}, 0.0)
    models.card(1, card("d"), 0.0)
    [note, objection] = models.card(2, card("e"), 0.0)
    assert isinstance(note, Note) and "0000000000000002" in note.text and models.refused == 1
    assert objection == Object(2, note.text), "it is told why"
    assert models.card(2, card("e"), 0.0) == [], "once"
    assert list(models.models["m"].others) == [2] and list(models.models["m"].workers) == [1]
    effects = models.offered({"generate/m": (2,)}, 0.0)
    assert kinds(effects) == ["Note", "Object", "Fetch"], "the last of the first kind has gone"
    assert effects[1] == Object(2), "it gets some again"
    assert models.models["m"].card.digest == "e" and list(models.models["m"].workers) == [2]


def test_a_reason_says_what_differs() -> None:
    models: Models[str] = Models()
    models.offered({"generate/m": (1,), "prefill/m": (2,)}, 0.0)
    models.card(1, replace(card("d"), marks={TOKENIZER: "1", TEMPLATE: "1", ENDS: "1"}), 0.0)
    [note, _] = models.card(2, replace(card("e"), marks={TOKENIZER: "2", TEMPLATE: "1", ENDS: "2"}), 0.0)
    assert isinstance(note, Note)
    assert "computes prompts of 'm' with another tokenizer and other end-of-sequence tokens" in note.text


def test_of_workers_that_come_together_the_oldest_says_what_the_model_is() -> None:
    """Two frontends hear of the same workers in another order, and choose the same."""
    cards = {1: card("e"), 2: replace(card("d"), created=4), 3: replace(card("c"), created=4)}
    for order in permutations(cards):
        models: Models[str] = Models()
        models.offered({"generate/m": tuple(cards)}, 0.0)
        for node in order:
            models.card(node, cards[node], 0.0)
        assert models.models["m"].card.digest == "c" and list(models.models["m"].workers) == [3]
        models.built("c", "text", 0.0)
        models.offered({"generate/m": (*cards, 4)}, 0.0)
        models.card(4, replace(card("z"), created=1), 0.0)
        assert models.models["m"].card.digest == "c", "what is served is not taken away"


def test_prompts_are_computed_by_the_same_model_alone() -> None:
    models: Models[str] = Models()
    models.offered({"prefill/m": (3, 4)}, 0.0)
    assert models.card(3, card("d"), 0.0) == [] and not models.models, "nobody generates"
    models.offered({"prefill/m": (3, 4), "generate/m": (1,)}, 0.0)
    models.card(1, card("d"), 0.0)
    assert list(models.models["m"].workers) == [1]
    assert list(models.models["m"].others) == [4], "who is not known yet"
    assert Object in map(type, models.card(4, card("e"), 0.0)) and list(models.models["m"].others) == [4]
    models.offered({"prefill/m": (3, 4)}, 0.0)
    assert not models.live() and models.models["m"].card.digest == "d", "a model of prompts alone is none"


def test_prompts_are_computed_with_the_weights_of_who_goes_on() -> None:
    models: Models[str] = Models()
    models.offered({"generate/m": (1, 2), "prefill/m": (3, 4, 5)}, 0.0)
    models.card(1, replace(card("d"), weights="one"), 0.0)
    models.card(2, replace(card("d"), weights="two"), 0.0)
    assert list(models.models["m"].workers) == [1, 2], "each may serve"
    models.card(3, replace(card("d"), weights="two"), 0.0)
    [note, _] = models.card(4, replace(card("d"), weights="three"), 0.0)
    assert isinstance(note, Note) and "with other weights" in note.text
    native = replace(ENGINE, engine="other", native="after")
    models.card(5, replace(card("d"), weights="two", engine=native), 0.0)
    assert list(models.models["m"].others) == [4, 5], "the first does what the second can go on with"
    assert models.offered({"generate/m": (1,), "prefill/m": (3, 4, 5)}, 0.0)[-1] == Object(3, models._told[3])
    assert list(models.models["m"].others) == [3, 4, 5]


def test_a_model_has_what_all_its_workers_have() -> None:
    models: Models[str] = Models()
    models.offered({"generate/m": (1, 2)}, 0.0)
    models.card(1, card("d"), 0.0)
    smaller = Card("numpy", "m", 90, 64, 1, 16, 10)
    models.card(2, replace(card("d"), engine=smaller), 0.0)
    assert (models.models["m"].context, models.models["m"].vocabulary) == (64, 90)
    models.offered({"generate/m": (1,)}, 0.0)
    assert (models.models["m"].context, models.models["m"].vocabulary) == (100, 100)


def test_who_has_to_be_fed_is_known_by_its_feeders() -> None:
    models: Models[str] = Models()
    models.offered({"generate/m": (1, 2), "prefill/m": (3,)}, 0.0)
    models.card(1, card("d"), 0.0)
    models.card(3, card("d"), 0.0)
    assert not models.models["m"].feeders
    models.card(2, replace(card("d"), engine=replace(ENGINE, fed_only=True)), 0.0)
    assert models.models["m"].feeders == ("prefill/m",), "one such worker is enough: any may get a request"


def test_a_worker_is_not_used_before_its_card_is_there() -> None:
    models: Models[str] = Models()
    models.offered({"generate/m": (1,)}, 0.0)
    models.card(1, card("d"), 0.0)
    models.offered({"generate/m": (1, 2)}, 0.0)
    assert list(models.models["m"].others) == [2]


def test_what_fails_is_tried_again_later_and_later() -> None:
    models: Models[str] = Models()
    models.offered({"generate/m": (1,)}, 0.0)
    now, waits = 0.0, []
    for _ in range(8):
        assert kinds(models.card_failed(1, "no", now)) == ["Note"]
        waits.append(models.deadline() - now)
        assert models.tick(models.deadline() - 0.01) == []
        now = models.deadline()
        assert models.tick(now) == [FetchCard(1)]
    assert waits == sorted(waits) and waits[0] == limits.RETRY_BASE_S and waits[-1] == limits.RETRY_MAX_S
    models.card(1, card("d"), now)
    assert kinds(models.build_failed("d", "no", now)) == ["Note"]
    assert models.tick(models.deadline()) == [Fetch(1, card("d"))]


def test_after_a_failure_another_worker_is_asked_for_the_files() -> None:
    models: Models[str] = Models()
    models.offered({"generate/m": (1, 2)}, 0.0)
    models.card(1, card("d"), 0.0)
    models.card(2, card("d"), 0.0)
    models.build_failed("d", "no", 0.0)
    assert models.tick(models.deadline()) == [Fetch(2, card("d"))]


def test_a_card_of_another_model_is_no_card() -> None:
    models: Models[str] = Models()
    models.offered({"generate/m": (1,)}, 0.0)
    assert kinds(models.card(1, card("d", "n"), 0.0)) == ["Note"] and not models.models


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sets(st.integers(1, 5))),
        st.tuples(st.sampled_from(["card", "fail"]), st.integers(1, 5)),
        st.tuples(st.sampled_from(["built", "broken"]), st.sampled_from(["d", "e"])),
        st.tuples(st.just("wait"), st.floats(0.0, 20.0)),
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(STEPS)
def test_whatever_happens(steps: list[tuple[str, Any]]) -> None:
    """No worker is used that does not have the model's files, and what is missing is always on its way or awaited."""
    models: Models[str] = Models()
    there: set[int] = set()
    fetching: set[str] = set()
    now = 0.0
    for kind, value in steps:
        effects: list[Effect] = []
        if kind == "offer":
            there = value
            effects = models.offered({"generate/m": tuple(sorted(value))}, now)
        elif kind == "card":
            effects = models.card(value, card("d" if value % 2 else "e"), now)
        elif kind == "fail":
            effects = models.card_failed(value, "no", now)
        elif kind == "built" and value in fetching:
            fetching.discard(value)
            effects = models.built(value, value, now)
        elif kind == "broken" and value in fetching:
            fetching.discard(value)
            effects = models.build_failed(value, "no", now)
        elif kind == "wait":
            now += value
            effects = models.tick(now)
        for effect in effects:
            if isinstance(effect, Fetch):
                assert effect.card.digest not in fetching and effect.node in there
                fetching.add(effect.card.digest)
        model = models.models.get("m")
        if model is not None:
            assert set(model.workers) | set(model.others) <= there and not set(model.workers) & set(model.others)
            assert all((node % 2 == 1) == (model.card.digest == "d") for node in model.workers)
            digest = model.card.digest
            if model.workers and digest not in models.texts:
                assert digest in fetching or models.deadline() < float("inf")
    assert msgspec.structs.fields(Fetch)
