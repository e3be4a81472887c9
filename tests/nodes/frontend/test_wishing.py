"""What a router is told of a request, and by which names a request is found again."""

from typing import Any

import msgspec
import pytest
from xxhash import xxh3_64_intdigest

from mesh.core import Finish
from nodes.contract.blocks import chain, root
from nodes.contract.engine import Card
from nodes.contract.media import Media, hashed_tokens
from nodes.frontend.routes import Names, header_of
from nodes.frontend.wishing import Manner, manner_of, wish_of
from nodes.openai.demand import Demand, Kind
from nodes.routing.hashes import pack
from proto.errors import Reason

CARD = Card("sim", "m", 1000, 4096, 8, 16, 100)
TOKENS = list(range(100))


def demand(**extra: Any) -> Demand:
    plain = {name: extra.pop(name) for name in ("priority", "cache_key") if name in extra}
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in extra.items()}
    return Demand(kind=Kind.CHAT, model="m", extra=raw, **plain)


def test_a_wish_has_the_hashes_that_engines_make() -> None:
    wish = wish_of(Manner(session="s"), TOKENS, CARD, "salt", xxh3_64_intdigest)
    assert wish.hashes == pack(chain(TOKENS, 16, root("salt", xxh3_64_intdigest), xxh3_64_intdigest))
    assert (wish.tokens, wish.block_tokens, wish.session, wish.media) == (100, 16, "s", [])


def test_pictures_are_in_the_hashes_and_named() -> None:
    media = [Media(10, 20, b"a" * 16), Media(40, 20, b"a" * 16)]
    wish = wish_of(Manner(), TOKENS, CARD, "", xxh3_64_intdigest, media)
    assert wish.hashes == pack(chain(hashed_tokens(TOKENS, media), 16, 0, xxh3_64_intdigest))
    assert wish.media == [b"a" * 16] and wish.hashes != pack(chain(TOKENS, 16, 0, xxh3_64_intdigest))


def test_nothing_said_is_nothing_wished() -> None:
    assert manner_of(demand(), {}) == Manner()


def test_the_field_wins_over_headers_and_these_over_hints() -> None:
    hints = {"agent_hints": {"priority": 3, "strict_priority": 1, "osl": 99}, "dp_rank": 2, "annotations": ["x"]}
    headers = {b"x-wiremesh-routing": b"priority=7, temperature=0.5", b"x-session-id": b"abc"}
    said = manner_of(demand(nvext=hints, priority=9), headers)
    assert (said.priority, said.strict_priority, said.expected_tokens, said.rank) == (7, -1, 99, 2)
    assert said.overrides == {"temperature": 0.5} and said.session == "x-session-id:abc"
    said = manner_of(demand(nvext=hints, routing={"priority": 1, "temperature": 0, "session": "mine"}), headers)
    assert (said.priority, said.overrides, said.session) == (1, {"temperature": 0.0}, "mine")


def test_dynamos_overrides_and_headers_mean_the_same() -> None:
    given = {"router_config_override": {"overlap_score_credit": 0.5, "router_temperature": 0.25}}
    headers = {b"x-dynamo-request-priority": b"2", b"x-dynamo-dp-rank": b"1"}
    said = manner_of(demand(nvext=given), headers)
    assert said.overrides == {"overlap_score_credit": 0.5, "router_temperature": 0.25}
    assert (said.priority, said.rank) == (-2, 1)


def test_service_targets_are_ours_or_dynamo_s() -> None:
    router = {"router": {"ttft_target": 200, "itl_target": 20.4}}
    said = manner_of(demand(nvext=router), {})
    assert (said.first_token_ms, said.next_token_ms, said.overrides) == (200, 20, {})
    said = manner_of(demand(nvext=router, routing={"first_token_ms": 90}), {})
    assert (said.first_token_ms, said.next_token_ms) == (90, 20), "the field wins"
    said = manner_of(demand(), {b"x-wiremesh-routing": b"next_token_ms=7"})
    assert (said.first_token_ms, said.next_token_ms) == (0, 7)
    with pytest.raises(ValueError, match="first_token_ms is -1"):
        manner_of(demand(routing={"first_token_ms": -1}), {})


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        ({"routing": {"temprature": 1}}, {}, "there is no knob 'temprature'"),
        ({"routing": {"index_blocks_max": 1}}, {}, "cannot be set for one request"),
        ({"routing": {"temperature": -1}}, {}, "temperature is -1"),
        ({"routing": [1]}, {}, "must be an object"),
        ({"routing": {"rank": 1e9}}, {}, "rank is 1000000000.0"),
        ({"routing": {"session": "x" * 300}}, {}, "session must be text"),
        ({"nvext": {"agent_hints": {"osl": "many"}}}, {}, "`nvext`"),
        ({}, {b"x-wiremesh-routing": b"temperature"}, "must be NAME=NUMBER"),
        ({}, {b"x-wiremesh-routing": b"temperature=warm"}, "is no number"),
        ({}, {b"x-dynamo-request-priority": b"nan"}, "is no number"),
    ],
)
def test_mistakes_are_told(body: dict[str, Any], headers: dict[bytes, bytes], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        manner_of(demand(**body), headers)


def test_a_request_is_found_by_each_of_its_names() -> None:
    names = Names(names_max=3)
    names.add("00aa-1", "mine", [5, 6])
    assert [names.get(name) for name in ("00aa-1", "chatcmpl-00aa-1", "cmpl-00aa-1", "mine", "else")] == [
        (5, 6), (5, 6), (5, 6), (5, 6), ()
    ]  # fmt: skip
    names.add("00aa-2", "mine", [7])
    assert names.get("mine") == (7,) and names.get("00aa-1") == (5, 6)
    names.add("00aa-3", "", [8])
    names.add("00aa-4", "", [9])
    assert names.get("00aa-1") == () and names.get("00aa-4") == (9,)


def test_a_header_tells_what_runs_and_what_is_over() -> None:
    class Feed:
        def __init__(self, request: int, finish: Finish | None) -> None:
            self.request, self.finish = request, finish

    over = Finish(1, Reason.COMPLETE, 3, nodes=(10, 11), endpoints=("prefill/m", "generate/m"), why='"so" \N{SNOWMAN}')
    feeds: list[Any] = [Feed(1, over), Feed(2, None), Feed(3, None)]
    known = {2: ([12], ["generate/m"], "kv")}
    header = header_of(255, feeds, known.get)
    assert header.isascii() and b"\n" not in header
    one, two, three = msgspec.json.decode(header)
    assert one["request"] == f"{255:016x}-1" and one["why"] == '"so" \N{SNOWMAN}'
    assert one["stops"] == [["prefill/m", f"{10:016x}"], ["generate/m", f"{11:016x}"]]
    assert two["stops"] == [["generate/m", f"{12:016x}"]] and three["stops"] == []
