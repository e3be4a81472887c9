"""A worker in front of a URL, and what an answer must be: said in the server's words, and believed when it is seen."""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from msgspec.structs import replace

from nodes.contract.engine import Job, Sampling
from nodes.contract.guide import Guide
from nodes.engines.openai_url.finding import Settings
from nodes.engines.openai_url.guides import OLLAMA as OLLAMA_TONGUES
from nodes.engines.openai_url.guides import TONGUES
from nodes.engines.openai_url.http import Place
from nodes.engines.openai_url.source import UrlSource
from nodes.engines.outside import JobLost
from nodes.folder import contents_of, folder_of
from nodes.text.tokenizer import ModelFiles, Tokenizer
from tests.nodes.engines.test_openai_url import source_of
from tests.nodes.engines.url_server import LLAMA, OLLAMA, PLAIN, SGLANG, VLLM, VLLM_OLD, Server, serving

DEMO = folder_of("demo")
WORDS = Tokenizer(ModelFiles(**contents_of(DEMO)))
SCHEMA = {
    "type": "object",
    "properties": {"n": {"enum": [11, 12]}, "kind": {"enum": ["a", "b"]}},
    "required": ["n", "kind"],
    "additionalProperties": False,
}
RECORD = Guide("json_schema", json.dumps(SCHEMA))
SAID_BY = {
    "structured_outputs": VLLM,
    "guided": VLLM_OLD,
    "sglang": SGLANG,
    "llama.cpp": LLAMA,
    "response_format": PLAIN,
    "ollama": OLLAMA,
}


def guided_server(tongue: str) -> AbstractContextManager[Server]:
    manner = replace(SAID_BY[tongue], tongue=tongue, strict=False, slots=1)
    return serving(manner, WORDS, DEMO / "tokenizer.json")


def guided_source(server: Server) -> UrlSource:
    source = UrlSource(Settings(Place(server.url), "", "tiny", wait_s=0.0), WORDS)
    source.start()
    return source


async def all_of(source: UrlSource, job: Job) -> list[int]:
    return [token async for piece in source.stream(job) for token in piece.tokens]


@pytest.mark.parametrize("tongue", [*TONGUES, "ollama"])
def test_what_an_answer_must_be_is_said_in_the_servers_words(tongue: str) -> None:
    pytest.importorskip("llguidance")
    guides = [
        RECORD,
        Guide("json_object"),
        Guide("regex", "20[0-9]{2}"),
        Guide("choice", '["yes.", "no+"]'),
        Guide("grammar", 'root ::= "a" [0-9] "b"'),
    ]
    right: dict[str, Callable[[str], object]] = {
        "json_schema": lambda text: isinstance(json.loads(text), dict),
        "json_object": lambda text: text.startswith("{"),
        "regex": lambda text: re.fullmatch("20[0-9]{2}", text),
        "choice": lambda text: text in ("yes.", "no+"),
        "grammar": lambda text: re.fullmatch("a[0-9]b", text),
    }
    with guided_server(tongue) as server:
        source = guided_source(server)
        assert source._dialect.tongue == tongue
        for guide in guides:
            job = Job("a", WORDS.encode("Say:"), max_tokens=60, sampling=Sampling(temperature=0.0), guide=guide)
            known = guide.kind in {**TONGUES, **OLLAMA_TONGUES}[tongue].kinds
            assert (source.refusal(job) is None) is known, "what it has no words for is refused"
            if known:
                text = WORDS.decode(asyncio.run(all_of(source, job)))
                assert right[guide.kind](text), (guide, text)


def test_a_server_that_ignores_it_is_not_believed() -> None:
    with serving(PLAIN) as server:
        assert not source_of(server).start().guides
    with serving(VLLM_OLD) as server:
        assert not source_of(server).start().guides, "nor one that refuses what it does not know"


@pytest.mark.parametrize("tongue", ["structured_outputs", "response_format"])
def test_a_stream_that_has_moved_begins_anew_there_and_goes_on_here(tongue: str) -> None:
    pytest.importorskip("llguidance")
    with guided_server(tongue) as server:
        source = guided_source(server)
        prompt = WORDS.encode("Say:")
        whole = asyncio.run(all_of(source, Job("a", prompt, max_tokens=60, sampling=Sampling(seed=5), guide=RECORD)))
        assert len(whole) > 3
        for cut in range(1, len(whole)):
            job = Job("a", prompt, whole[:cut], 60, sampling=Sampling(seed=5), guide=RECORD)
            rest = asyncio.run(all_of(source, job))
            assert WORDS.decode([*whole[:cut], *rest]) == WORDS.decode(whole)
            assert server.bodies[-1]["seed"] == 5 and server.bodies[-1]["max_tokens"] == 60
        assert source._outcomes["complete"] == len(whole)
        other = WORDS.encode("[1, 2")
        with pytest.raises(JobLost, match="something else than was said before"):
            asyncio.run(all_of(source, Job("a", prompt, other, 60, guide=RECORD)))
        with pytest.raises(JobLost, match="something else"):  # it ends before it has said all of that again
            asyncio.run(all_of(source, Job("a", prompt, [*whole, whole[0]], 60, guide=RECORD)))
