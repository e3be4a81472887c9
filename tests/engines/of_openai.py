"""The conformance row of any OpenAI-compatible URL: a server in a thread of this process."""

from typing import Any

from msgspec.structs import replace

from nodes.contract.engine import EngineLoad
from nodes.engines.openai_url.finding import Settings
from nodes.engines.openai_url.http import Place
from nodes.engines.openai_url.source import UrlSource
from nodes.engines.outside import OutsideEngine
from nodes.folder import contents_of
from nodes.text.tokenizer import ModelFiles, Tokenizer
from tests.engines.reference import CONTEXT, DEMO, SAID
from tests.nodes.engines.url_server import VLLM, Server

PAUSE_S = 0.001


class Behind(UrlSource):
    """It ends with its server."""

    def __init__(self, slots: int) -> None:
        tokenizer = Tokenizer(ModelFiles(**contents_of(DEMO)))
        manner = replace(VLLM, pause_s=PAUSE_S, slots=slots, tongue="structured_outputs")
        self.server = Server(manner, tokenizer, SAID, DEMO / "tokenizer.json")
        self.server.listen()
        super().__init__(Settings(Place(self.server.url), "", "x", slots, CONTEXT, wait_s=0.0), tokenizer)

    def load(self) -> EngineLoad:
        """What its server still has to close counts too: a test looks for what is left open."""
        return EngineLoad(running=max(super().load().running, self.server.busy))

    async def well(self) -> bool:
        """Without a connection, for the same reason."""
        return self.server.listens

    async def stop(self) -> None:
        await super().stop()
        if not self.server.over:
            self.server.close()


def openai(slots: int) -> OutsideEngine:
    source = Behind(slots)
    engine = OutsideEngine(source)
    engine.server = source.server  # type: ignore[attr-defined]
    return engine


def kill_openai(engine: Any) -> None:
    """Its server dies."""
    engine.server.die()
