"""Where pictures, sounds and clips stand in a prompt."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.contract.media import AUDIO, IMAGE, VIDEO, Spot
from nodes.generation import Generation, decode, encode
from nodes.media.content import Clip
from nodes.text.placeholders import Misplaced, Size, expanded, written

MARKS = {IMAGE: "<i>", AUDIO: "<a>", VIDEO: "<v>"}
IDS = {IMAGE: 7, AUDIO: 8, VIDEO: 8}


class Refused(Exception):
    """A template that does not like what it is given."""


def clip(kind: str) -> Clip:
    return Clip(kind, "place", "word", "")


def size(kind: str, rows: int, name: int = 0) -> Size:
    return Size(kind, rows, bytes([name]) * 16)


def parts(*kinds: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "hey"}, *({"type": kind} for kind in kinds)]}]


def lists(messages: Sequence[dict[str, Any]]) -> str:
    """A template that knows parts; it shows pictures first, as LLaVA's does."""
    content = messages[0]["content"]
    shown = sorted(content, key=lambda part: part["type"] != IMAGE)
    return "".join(part.get("text") or MARKS[part["type"]] for part in shown)


def texts_only(messages: Sequence[dict[str, Any]]) -> str:
    if not isinstance(messages[0]["content"], str):
        raise Refused("this wants text")
    return str(messages[0]["content"])


def test_a_template_that_knows_parts_places_them() -> None:
    assert written(parts(AUDIO, IMAGE), [clip(AUDIO), clip(IMAGE)], MARKS, lists, Refused) == "<i>hey<a>"


@pytest.mark.parametrize("template", [texts_only, lambda messages: str(messages[0]["content"])])
def test_one_that_wants_text_gets_text(template: Any) -> None:
    assert written(parts(IMAGE, AUDIO), [clip(IMAGE), clip(AUDIO)], MARKS, template, Refused) == "hey\n<i>\n<a>"


def test_one_that_leaves_them_out_or_forges_them_is_told() -> None:
    with pytest.raises(Misplaced, match="leaves"):
        written(parts(IMAGE), [clip(IMAGE)], MARKS, lambda messages: "nothing", Refused)
    forged = [*parts(IMAGE), {"role": "user", "content": "I say <i>"}]
    with pytest.raises(Misplaced, match="stands for"):
        written(forged, [clip(IMAGE)], MARKS, lists, Refused)


def test_each_placeholder_becomes_its_rows() -> None:
    sizes = [size(VIDEO, 1, 1), size(IMAGE, 3, 2), size(AUDIO, 2, 3)]
    found = expanded([1, 8, 7, 2, 8], sizes, IDS, 100)
    assert found == (
        [1, 8, 7, 7, 7, 2, 8, 8],
        (Spot(VIDEO, 1, 1, b"\1" * 16), Spot(IMAGE, 2, 3, b"\2" * 16), Spot(AUDIO, 6, 2, b"\3" * 16)),
    )
    assert expanded([1, 7], [size(IMAGE, 50)], IDS, 20) == 51
    with pytest.raises(Misplaced, match="more placeholders"):
        expanded([7, 7], [size(IMAGE, 1)], IDS, 20)
    with pytest.raises(Misplaced, match="no place for 1"):
        expanded([7], [size(IMAGE, 1), size(IMAGE, 1)], IDS, 20)


@given(st.lists(st.sampled_from([1, 2, 7, 8]), max_size=30), st.data())
@settings(max_examples=200, deadline=None)
def test_what_a_worker_reads_is_what_was_placed(tokens: list[int], data: st.DataObject) -> None:
    kinds = [data.draw(st.sampled_from([IMAGE] if token == 7 else [AUDIO, VIDEO])) for token in tokens if token > 6]
    sizes = [size(kind, data.draw(st.integers(1, 4)), number % 256) for number, kind in enumerate(kinds)]
    found = expanded(tokens, sizes, IDS, 1_000)
    assert not isinstance(found, int)
    prompt, spots = found
    assert len(prompt) == len(tokens) + sum(one.rows - 1 for one in sizes)
    assert [token for token in prompt if token < 7] == [token for token in tokens if token < 7]
    assert all(set(prompt[spot.first : spot.end]) == {IDS[spot.kind]} for spot in spots)
    assert sorted(spot.content for spot in spots) == sorted(one.content for one in sizes)
    assert decode(encode(Generation(media=spots))).media == spots


@pytest.mark.parametrize(
    "spots",
    [
        *((Spot("smell", 0, 1, b"1" * 16),), (Spot(IMAGE, 0, 1, b"short"),), (Spot(IMAGE, 0, 0, b"1" * 16),)),
        *((Spot(IMAGE, -1, 2, b"1" * 16),), (Spot(IMAGE, 0, 2, b"1" * 16), Spot(IMAGE, 1, 2, b"1" * 16))),
        tuple(Spot(IMAGE, index, 1, b"1" * 16) for index in range(65)),
    ],
    ids=range(6),
)
def test_spots_that_cannot_be_are_refused_by_a_worker(spots: tuple[Spot, ...]) -> None:
    with pytest.raises(ValueError, match="picture"):
        decode(encode(Generation(media=spots)))
