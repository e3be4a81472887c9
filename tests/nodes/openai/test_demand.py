"""What must hold once tokens are counted, and how a seed spreads over choices."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.contract.engine import Sampling
from nodes.openai.demand import SEED_MASK, Chat, Demand, Kind, best, budget, check_tokens, sampling
from nodes.openai.errors import Problem

CHAT = Chat([{"role": "user", "content": "hi"}])


def demand(chat: bool = False, **more: Any) -> Demand:
    return Demand(kind=Kind.CHAT if chat else Kind.COMPLETION, model="m", chat=CHAT if chat else None, **more)


@pytest.mark.parametrize(
    ("chat", "asked", "prompt", "allowed"),
    [(True, None, 90, 10), (False, None, 50, 16), (False, None, 90, 10), (True, 10, 90, 10), (False, 1, 99, 1)],
)
def test_how_much_may_be_generated(chat: bool, asked: int | None, prompt: int, allowed: int) -> None:
    assert budget(demand(chat, max_tokens=asked), prompt, 100) == allowed


@pytest.mark.parametrize(
    ("chat", "asked", "prompt"), [(True, 11, 90), (True, None, 100), (False, None, 100), (False, 1, 200)]
)
def test_what_does_not_fit_is_said_at_once(chat: bool, asked: int | None, prompt: int) -> None:
    found = budget(demand(chat, max_tokens=asked), prompt, 100)
    assert isinstance(found, Problem)
    assert (found.status, found.code) == (400, "context_length_exceeded")
    assert found.message.startswith("This model's maximum context length is 100 tokens.")
    assert found.param == ("messages" if chat else "prompt")


def test_other_budgets_that_cannot_be() -> None:
    found = budget(demand(), 0, 100)
    assert isinstance(found, Problem) and found.param == "prompt"
    found = budget(demand(max_tokens=5, min_tokens=6), 10, 100)
    assert isinstance(found, Problem) and found.param == "min_tokens"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompts": [[1, 99]]}, None),
        ({"prompts": ["text", [1, 100]]}, "prompt[1]"),
        ({"prompts": [[100]]}, "prompt"),
        ({"stop_tokens": (100,)}, "stop_token_ids"),
        ({"sampling": Sampling(logit_bias={100: 1.0})}, "logit_bias"),
        ({"prompts": [[]]}, None),
    ],
)
def test_token_ids_beyond_the_vocabulary(more: dict[str, Any], param: str | None) -> None:
    found = check_tokens(demand(**more), 100)
    assert (found and found.param) == param


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, SEED_MASK))
def test_a_seed_gives_the_same_candidates_whatever_else_there_is(seed: int, entropy: int) -> None:
    asked = demand(seed=seed)
    seeds = [sampling(asked, 0, candidate, entropy).seed for candidate in range(16)]
    assert seeds[0] == seed & SEED_MASK and len(set(seeds)) == 16
    assert seeds == [sampling(asked, 3, candidate, entropy + 1).seed for candidate in range(16)]
    assert all(0 <= each <= SEED_MASK for each in seeds)


@given(st.integers(0, SEED_MASK))
def test_without_a_seed_all_sequences_differ(entropy: int) -> None:
    made = {sampling(demand(), prompt, candidate, entropy).seed for prompt in range(8) for candidate in range(8)}
    assert len(made) == 64


def test_the_best_are_those_with_the_best_mean() -> None:
    assert best([(-4.0, 2), (-1.0, 1), (-9.0, 9), (0.0, 0)], 2) == [1, 2]
