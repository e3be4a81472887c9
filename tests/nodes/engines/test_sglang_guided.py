"""Guides in SGLang's place for grammars, and where pictures stand, without SGLang. With it: tests/engines, and
test_sglang_seeing.py."""

import asyncio
import json
from concurrent.futures import Future
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from nodes.contract.engine import Ending, Job, MediaCard, Sampling
from nodes.contract.guide import REGEX, Guide
from nodes.contract.media import Media
from nodes.engines.gathering import Piece
from nodes.engines.sglang import guided, seeing, words
from nodes.engines.sglang.words import Prescribed
from nodes.engines.transformers.vision import Sight
from nodes.engines.witness import BROKEN, Witness
from nodes.folder import contents_of, folder_of
from nodes.guiding.following import Guides
from nodes.text.tokenizer import ModelFiles, Tokenizer

pytest.importorskip("llguidance")
if find_spec("sglang") is not None:
    pytest.skip("SGLang itself is tested here", allow_module_level=True)

DEMO = folder_of("demo")
DIGITS = Guide(REGEX, "[0-9]{2}-?")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(ModelFiles(**contents_of(DEMO)))


@pytest.fixture(scope="module")
def guides(tokenizer: Tokenizer) -> Guides:
    found = guided.guides_in(DEMO, SimpleNamespace(hf_eos_token_id={0}, vocab_size=tokenizer.vocabulary))
    assert found is not None
    found.read(DIGITS).result()
    return found


def grammar(guides: Guides, **more: Any) -> guided.Grammar:
    usual: dict[str, Any] = {"said": [], "stops": [], "stops_from": 0, "endless": [], "told": False}
    return guided.Grammar(guides, Prescribed(DIGITS, **{**usual, **more}))


def allowed(one: guided.Grammar, tokenizer: Tokenizer) -> set[str]:
    return {tokenizer.decode([int(token)]) for token in np.flatnonzero(one.allowed())}


def test_what_was_said_elsewhere_counts(guides: Guides, tokenizer: Tokenizer) -> None:
    one, other = tokenizer.encode("7"), tokenizer.encode("-")
    here = grammar(guides)
    here.accept_token(one[0])
    moved = grammar(guides, said=one)
    assert (here.allowed() == moved.allowed()).all() and here.allowed().any()
    here.accept_token(one[0])
    assert allowed(here, tokenizer) == {"-", ""}, "a dash, or the end"
    here.accept_token(other[0])
    here.rollback(1)
    assert allowed(here, tokenizer) == {"-", ""}, "one that was only guessed"
    assert not here.is_terminated()


def test_ends_are_barred_while_there_is_anything_else(guides: Guides, tokenizer: Tokenizer) -> None:
    digit, dash = tokenizer.encode("7")[0], tokenizer.encode("-")[0]
    early = grammar(guides, said=[digit, digit], stops=[0], stops_from=3)
    assert allowed(early, tokenizer) == {"-"}
    endless = grammar(guides, said=[digit, digit], endless=[0])
    assert allowed(endless, tokenizer) == {"-"}
    over = grammar(guides, said=[digit, digit, dash], endless=[0], stops=[0], stops_from=9)
    assert allowed(over, tokenizer) == {""}, "nothing else is left"


def test_one_that_is_lost_ends(guides: Guides, tokenizer: Tokenizer) -> None:
    lost = grammar(guides, said=tokenizer.encode("x"))
    assert allowed(lost, tokenizer) == {""}


def test_who_asks_for_one_gets_it_once_it_was_read(guides: Guides, monkeypatch: pytest.MonkeyPatch) -> None:
    invalid = SimpleNamespace(InvalidGrammarObject=lambda text: ("invalid", text))
    monkeypatch.setattr(guided, "library", lambda name: invalid)
    job = Job("a", [1, 2], generated=[3], max_tokens=5, guide=DIGITS, sampling=Sampling(logprobs=2))
    told = words.prescribed_of(job, (0,))["ebnf"]
    assert json.loads(told)[1:] == [[3], [0], 0, [], True]
    backend = guided.Backend(guides)
    found, there = backend.get_cached_or_future_value(("ebnf", told), False)
    assert there and found.prescribed.guide == DIGITS
    assert backend.get_cached_or_future_value(("ebnf", "root ::= x"), False)[0][0] == "invalid"
    reading: Future[Any] = Future()
    monkeypatch.setattr(guides, "read", lambda guide: reading)
    late, there = backend.get_cached_or_future_value(("ebnf", told), False)
    gone, _ = backend.get_cached_or_future_value(("ebnf", told), False)
    assert not there and gone.cancel()
    reading.set_exception(ValueError("no such thing"))
    assert late.result(1) == ("invalid", "no such thing")


def test_nothing_is_prescribed_to_who_has_no_guide() -> None:
    assert words.prescribed_of(Job("a", [1]), (0,)) == {}


def test_a_witness_sees_an_end_that_should_not_be(guides: Guides, tokenizer: Tokenizer) -> None:
    digit = tokenizer.encode("7")[0]

    async def seen(*tokens: int) -> None:
        witness = Witness(guides, Job("a", [1], guide=DIGITS))
        await witness.ready()
        await witness.see(Piece(tokens, ending=Ending.STOP))

    asyncio.run(seen(digit, digit, 0))
    with pytest.raises(ValueError, match=BROKEN):
        asyncio.run(seen(digit, 0))


def test_a_picture_has_places_in_two_dimensions() -> None:
    sight = Sight("qwen2_vl", MediaCard(token=9, features=4, tokens=6, height=0, width=0), 1.0, (0.0,) * 3, (1.0,) * 3)
    sight = msgspec.structs.replace(sight, patch=14, merged=2)
    media = [Media(2, 6, b"a" * 16, across=3), Media(9, 4, b"b" * 16)]
    places, after = seeing.places_of(media, 15, sight)
    assert places == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 6, 6, 6, 8, 9],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 6, 7, 7, 8, 9],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9],
    ]
    assert after == 10
