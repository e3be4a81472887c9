"""Shell. The process of a worker that makes pictures, or clips."""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from mesh.actor import Actor
from mesh.options import Options
from nodes.contract.pictures import Painter, PictureCard
from nodes.diffusion.files import check, filed_by
from nodes.diffusion.host import PictureHost
from nodes.endpoints import node_endpoints
from nodes.engine_options import EngineOptions
from nodes.folder import folder_of, name_of
from nodes.host import Crashed
from nodes.pooled import pool_endpoints
from nodes.serving import Beside, introduction, serve
from nodes.worker import SIDE_LEGS, crashed
from proto.messages import Role

ROLE = "worker"


class Studio(Struct):
    """An engine that is ready."""

    painter: Painter
    card: PictureCard


def load(options: EngineOptions) -> Studio:
    """Load a model. May take long. Raises ModelRefused."""
    folder, model = folder_of(options.model), name_of(options.model, options.name_as)
    check(options.diffusion)
    painter = _PAINTERS[options.engine](str(folder), model, options)
    return Studio(painter, painter.start())


def _diffusers(folder: str, model: str, options: EngineOptions) -> Painter:
    from nodes.engines.diffusers import DiffusersPainter

    return DiffusersPainter(folder, model, options.diffusion, options.device, options.dtype)


def _visual(folder: str, model: str, options: EngineOptions) -> Painter:
    from nodes.engines.trtllm.visual import VisualPainter

    return VisualPainter(folder, model, options.diffusion, options.native)


_PAINTERS: dict[str, Callable[[str, str, EngineOptions], Painter]] = {"transformers": _diffusers, "trtllm": _visual}


class Pictures(Beside):
    """A studio, and its place in the mesh."""

    def __init__(self, options: Options, studio: Studio, flags: EngineOptions, queue: int, crashed: Crashed) -> None:
        self.card = studio.card
        self.host = PictureHost(studio.painter, studio.card, filed_by(studio.card), crashed)
        endpoints = {
            **node_endpoints(ROLE, lambda: self.actor, self.host.families, self.facts),
            **pool_endpoints(flags.pool),
        }
        self.actor = Actor(options, Role.WORKER, endpoints, ROLE, self.host, slots=1 + SIDE_LEGS, queue=queue)

    def facts(self) -> dict[str, Any]:
        """What it adds to its status."""
        return {
            "offers": self.host.offer().endpoint,
            "model": self.card.model,
            "pictures": self.card,
            "active": self.host.active,
        }

    def introduction(self) -> str:
        card = self.card
        shown = f"{card.width}x{card.height}" + (f"x{card.frames}" if card.frames else "")
        does = f"makes {card.kind}s of {card.model} with the {card.engine} engine, {shown} in {card.steps} steps"
        return introduction(ROLE, self.actor, does)


async def run(options: Options, studio: Studio, flags: EngineOptions, queue: int) -> int:
    """Such a worker from its start to its end; returns the exit code."""
    pictures = Pictures(options, studio, flags, queue, crashed)
    return await serve(pictures.actor, pictures.introduction, beside=pictures)
