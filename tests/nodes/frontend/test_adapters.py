"""LoRA adapters: each is a model of its own to the client, behind a colon, and a field of the payload to the worker."""

from msgspec.structs import replace

from nodes.frontend.models import Models
from nodes.generation import decode
from tests.nodes.frontend.fakes import CHAT, TEXT, House, card, chat, prompt, served


def adapted(there: House, *loras: str) -> None:
    model = there.frontend.registry.models.models["org/tiny"]
    model.card = replace(model.card, engine=replace(model.card.engine, loras=loras))


def test_an_adapter_is_asked_for_like_a_model() -> None:
    async def test(there: House) -> None:
        adapted(there, "sql", "prose")
        listed = (await there.get("/v1/models")).json["data"]
        assert [model["id"] for model in listed] == ["org/tiny", "org/tiny:sql", "org/tiny:prose"]
        assert (await there.get("/v1/models/org/tiny:sql")).json["id"] == "org/tiny:sql"
        for path, body in ((CHAT, chat(model="org/tiny:sql")), (TEXT, prompt(model="org/tiny:sql"))):
            answer = await there.post(path, body)
            assert answer.status == 200 and answer.json["model"] == "org/tiny:sql"
            ask = there.actor.asked[-1]
            assert ask.endpoint == "generate/org/tiny" and decode(ask.payload).lora == "sql"
        await there.post(CHAT, chat())
        assert decode(there.actor.asked[-1].payload).lora == ""
        missing = await there.post(CHAT, chat(model="org/tiny:poems"))
        assert missing.status == 404 and "org/tiny:poems" in missing.error["message"]

    served(test)


def test_a_model_with_a_colon_in_its_name_is_no_adapter() -> None:
    models: Models[str] = Models()
    models.offered({"generate/m": (1,), "generate/m:a": (2,)}, 0.0)
    with_adapter = replace(card("m"), engine=replace(card("m").engine, loras=("a", "b")))
    models.card(1, with_adapter, 0.0)
    models.card(2, card("m:a"), 0.0)
    assert models.named("m:a") == ("m:a", "") and models.named("m:b") == ("m", "b")
    assert models.named("m:c") == ("m:c", "") and models.named(":") == (":", "")
