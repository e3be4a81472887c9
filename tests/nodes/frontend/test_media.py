"""Pictures, sounds and clips at the frontend: what is refused and how, and what the mesh is asked."""

import base64
import io
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs

from nodes import parcels, planes
from nodes.contract.engine import MediaCard
from nodes.generation import decode
from nodes.media.content import names_of
from nodes.text.template import ChatTemplate
from nodes.transfer import Plane, PlaneSettings
from tests.nodes.frontend.fakes import CHAT, DIGEST, House, card, chat, eventually, served
from tests.nodes.media.samples import animation, picture, png_that_says, tone, wav
from tests.nodes.media.test_guard import pages

FEATURES = 4
MARK = 5  # a token of the tiny tokenizer that the texts here do not hold


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode()


def image(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(data)}}


def said(*parts: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": [{"type": "text", "text": "hey"}, *parts]}])


def give_eyes(there: House, *kinds: str, template: str = "") -> None:
    """From now on the model sees and hears."""
    models = there.frontend.registry.models
    (model,) = models.live()
    made = {
        "image": MediaCard(MARK, FEATURES, tokens=3, height=8, width=8),
        "video": MediaCard(MARK, FEATURES, tokens=2, height=8, width=8, frames=4),
        "audio": MediaCard(MARK, FEATURES, rate=16_000, samples_per_token=1_000, seconds_max=1.0),
    }
    engine = structs.replace(card().engine, media={kind: made[kind] for kind in kinds})
    model.card = structs.replace(model.card, engine=engine)
    if template:
        text = models.texts[DIGEST]
        models.texts[DIGEST] = structs.replace(text, template=ChatTemplate(template, text.tokenizer.specials))


@pytest.fixture(autouse=True)
def _planes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(actor: object) -> Plane:
        return await Plane(PlaneSettings(7, "here", ())).start()

    monkeypatch.setattr(planes, "start_plane", start)


def test_a_picture_becomes_placeholders_and_a_parcel() -> None:
    async def test(there: House) -> None:
        give_eyes(there, "image")
        one, other = picture(1), picture(2)
        answer = await there.post(CHAT, said(image(one), {"type": "text", "text": "and"}, image(other)))
        assert answer.status == 200, answer.body
        (ask,) = there.actor.asked
        spots = decode(ask.payload).media
        assert [(spot.kind, spot.count) for spot in spots] == [("image", 3), ("image", 3)]
        for spot in spots:
            assert list(ask.prompt[spot.first : spot.end]) == [MARK] * 3
        assert list(ask.prompt).count(MARK) == 6 and spots[0].end < spots[1].first
        assert answer.json["usage"]["prompt_tokens"] == len(ask.prompt), "usage counts what they fill"
        parcel = parcels.decode(ask.handles[0])
        assert parcel.kind == parcels.MEDIA and names_of(parcel.content) == [spot.content for spot in spots]
        assert ask.needs == (), "no encoder is there"

    served(test)


def test_a_picture_of_any_size_fills_as_many_places_as_it_is_large() -> None:
    async def test(there: House) -> None:
        give_eyes(there, "image")
        (model,) = there.frontend.registry.models.live()
        eye = MediaCard(MARK, FEATURES, step=8, pixels_min=64, pixels_max=64 * 20)
        model.card = structs.replace(model.card, engine=structs.replace(model.card.engine, media={"image": eye}))
        shown = [picture(1), picture(2, "JPEG", 40, 8), picture(3, "PNG", 400, 300)]
        answer = await there.post(CHAT, said(*map(image, shown)))
        assert answer.status == 200, answer.body
        (ask,) = there.actor.asked
        spots = decode(ask.payload).media
        assert [(spot.count, spot.across) for spot in spots] == [(8, 4), (5, 1), (15, 3)]
        assert list(ask.prompt).count(MARK) == 28
        thin = await there.post(CHAT, said(image(png_that_says(60_000, 1))))
        assert thin.status == 400 and "too long and thin" in thin.error["message"]

    served(test)


def test_the_tokens_of_a_conversation_with_pictures_are_those_it_is_served_with() -> None:
    async def test(there: House) -> None:
        give_eyes(there, "image", "audio")
        body = said(image(picture(1)), {"type": "text", "text": "and"}, image(picture(2)))
        assert (await there.post(CHAT, body)).status == 200
        (ask,) = there.actor.asked
        told = await there.post("/tokenize", {"messages": body["messages"], "return_token_strs": True})
        assert told.status == 200, told.body
        assert told.json["tokens"] == list(ask.prompt) and told.json["count"] == len(told.json["token_strs"])
        assert len(there.actor.asked) == 1, "nothing is computed for it"
        broken = await there.post("/tokenize", {"messages": said(image(b"no picture"))["messages"]})
        assert broken.status == 400 and broken.json["error"]["code"] == "invalid_media"

    served(test)


def test_what_is_offered_can_be_fetched_while_the_request_runs_and_not_after() -> None:
    async def test(there: House) -> None:
        give_eyes(there, "image")
        there.actor.delay_s = 30.0
        data = picture(1)
        reading = await there.open(CHAT, {**said(image(data)), "stream": True})
        await eventually(lambda: there.actor.asked)
        parcel = parcels.decode(there.actor.asked[0].handles[0])
        ground = await there.frontend._ground()
        assert ground.bank.used == 1 and parcel.handle.size == 8 + len(data)
        reading.close()
        await eventually(lambda: not ground.bank.used)

    served(test)


def test_links_to_hosts_that_were_named_are_fetched() -> None:
    with pages() as (url, host):

        async def test(there: House) -> None:
            give_eyes(there, "image")
            part = {"type": "image_url", "image_url": {"url": f"{url}/picture"}}
            assert (await there.post(CHAT, said(part))).status == 200
            missing = {"type": "image_url", "image_url": {"url": f"{url}/missing"}}
            answer = await there.post(CHAT, said(missing))
            assert answer.status == 400 and "status 404" in answer.error["message"]

        served(test, media_urls=(host,))


def test_an_encoder_is_needed_where_there_is_one() -> None:
    async def test(there: House) -> None:
        give_eyes(there, "image")
        there.actor.node.instances = lambda endpoint: (77,) if endpoint == "encode/org/tiny" else ()
        await there.post(CHAT, said(image(picture())))
        assert there.actor.asked[0].needs == ("encode/org/tiny",)

    served(test)


def test_a_template_that_knows_parts_writes_their_places_itself() -> None:
    async def test(there: House) -> None:
        mark = there.frontend.registry.models.texts[DIGEST].tokenizer.decode([MARK], skip_special=False)
        part = "{% if p['type'] == 'text' %}{{ p['text'] }}{% else %}MARK{% endif %}"
        inner = "{% for p in m['content'] %}" + part + "{% endfor %}"
        parts = "{% if m['content'] is string %}{{ m['content'] }}{% else %}" + inner + "{% endif %}"
        template = "{% for m in messages %}" + parts.replace("MARK", mark) + "|{% endfor %}"
        give_eyes(there, "image", template=template)
        body = said(image(picture()), {"type": "text", "text": "hey"})
        assert (await there.post(CHAT, body)).status == 200
        (ask,) = there.actor.asked
        text = there.frontend.registry.models.texts[DIGEST].tokenizer.decode(list(ask.prompt), skip_special=False)
        assert text == f"hey{mark * 3}hey|"

    served(test)


def test_sounds_and_clips_fill_what_their_length_needs() -> None:
    async def test(there: House) -> None:
        give_eyes(there, "audio", "video")
        data = base64.b64encode(wav(tone(0.5))).decode()
        sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        clip = {"type": "video_url", "video_url": {"url": data_url(animation([1, 2]), "image/gif")}}
        answer = await there.post(CHAT, said(sound, clip))
        assert answer.status == 200, answer.body
        spots = decode(there.actor.asked[0].payload).media
        assert [(spot.kind, spot.count) for spot in spots] == [("audio", 8), ("video", 8)]

    served(test)


def test_embeddings_of_the_client_need_no_encoder() -> None:
    async def test(there: House) -> None:
        give_eyes(there, "image")
        there.actor.node.instances = lambda endpoint: (77,)
        file = io.BytesIO()
        np.save(file, np.ones((5, FEATURES), np.float32))
        part = {"type": "image_embeds", "image_embeds": base64.b64encode(file.getvalue()).decode()}
        assert (await there.post(CHAT, said(part))).status == 200
        (ask,) = there.actor.asked
        assert decode(ask.payload).media[0].count == 5 and ask.needs == ()
        parcel = parcels.decode(ask.handles[0])
        assert (parcel.kind, parcel.digest, parcel.count) == (parcels.EMBEDDING, DIGEST, 5)

    served(test)


PLACE = "messages[0].content[1].image_url"
REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    (image(b"no picture"), 400, PLACE, "not a picture"),
    (image(png_that_says(60_000, 60_000)), 400, PLACE, "pixels"),
    (image(picture(1, height=400, width=400)), 413, PLACE, "100000 bytes"),
    ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}, 400, PLACE, "base64"),
    ({"type": "image_url", "image_url": {"url": "data:image/png,plain"}}, 400, PLACE, "base64"),
    ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, 400, PLACE, "must begin with"),
    ({"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}, 400, PLACE, "not fetched here"),
    ({"type": "image_url", "image_url": {}}, 400, PLACE + ".url", "Missing"),
    ({"type": "image_embeds", "image_embeds": "AAAA"}, 400, "messages[0].content[1].image_embeds", ".npy"),
    ({"type": "video_url", "video_url": "data:,"}, 400, "messages[0].content[1].video_url", "not supported by"),
    (
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav(tone(1.5))).decode()}},
        400,
        "messages[0].content[1].input_audio",
        "longer than 1 seconds",
    ),
    (
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav(tone(0.0))).decode()}},
        400,
        "messages[0].content[1].input_audio",
        "no samples",
    ),
]


@pytest.mark.parametrize(("part", "status", "param", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_wrong_with_a_part_names_it(part: dict[str, Any], status: int, param: str, words: str) -> None:
    async def test(there: House) -> None:
        give_eyes(there, "image", "audio")
        answer = await there.post(CHAT, said(part))
        assert (answer.status, answer.error["param"]) == (status, param), answer.body
        assert words in answer.error["message"] and not there.actor.asked

    served(test, media_bytes_max=100_000)


def test_a_model_without_eyes_says_so() -> None:
    async def test(there: House) -> None:
        answer = await there.post(CHAT, said(image(picture())))
        assert answer.status == 400 and answer.error["message"] == "`image_url` is not supported by `org/tiny`."
        tokens = await there.post("/tokenize", {"model": "org/tiny", "messages": said(image(picture()))["messages"]})
        assert tokens.status == 400 and tokens.error["param"] == PLACE

    served(test)


def test_what_does_not_fit_into_the_context_is_refused() -> None:
    async def test(there: House) -> None:
        give_eyes(there, "image")
        (model,) = there.frontend.registry.models.live()
        wide = structs.replace(model.card.engine.media["image"], tokens=1_000)
        model.card = structs.replace(model.card, engine=structs.replace(model.card.engine, media={"image": wide}))
        answer = await there.post(CHAT, said(image(picture(1)), image(picture(2)), image(picture(3))))
        assert answer.status == 400 and answer.error["code"] == "context_length_exceeded", answer.body

    served(test)


def test_a_text_that_holds_a_placeholder_is_refused_with_pictures_only() -> None:
    async def test(there: House) -> None:
        give_eyes(there, "image")
        mark = there.frontend.registry.models.texts[DIGEST].tokenizer.decode([MARK], skip_special=False)
        forged = {"type": "text", "text": f"x{mark}y"}
        answer = await there.post(CHAT, said(forged, image(picture())))
        assert answer.status == 400 and answer.error["code"] == "misplaced_media"
        assert (await there.post(CHAT, said(forged))).status == 200

    served(test)


def test_too_many_parts_are_refused() -> None:
    async def test(there: House) -> None:
        give_eyes(there, "image")
        answer = await there.post(CHAT, said(*([image(picture())] * 65)))
        assert answer.status == 400 and answer.error["code"] == "too_many_values"
        assert msgspec.json.decode(answer.body)["error"]["param"] == "messages[0].content[65].image_url"

    served(test)
