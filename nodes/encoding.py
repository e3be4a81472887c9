"""Shell. The process of an encoder: a model's eyes and ears on the mesh, without the model."""

from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from mesh.actor import Actor
from mesh.options import Options
from nodes.contract.engine import MediaCard
from nodes.encoder import SLOTS, EncoderHost
from nodes.endpoints import node_endpoints
from nodes.engine_options import EngineOptions
from nodes.folder import ModelRefused, contents_of, folder_of, name_of
from nodes.media import decoder, limits
from nodes.media.embedder import Embedder, Encodes
from nodes.planes import WAYS, start_plane
from nodes.pooled import pool_endpoints
from nodes.routing.teller import Teller
from nodes.serving import Beside, introduction, serve
from nodes.text.tokenizer import ModelFiles, digest
from nodes.tiers.weights import mark_of
from nodes.transfer import Plane
from proto.messages import Role
from proto.placing import Report

ROLE = "encoder"
SIDE_LEGS = 128  # metrics and status at once, beside its work
LINGER_S = 5.0  # after its last leg: for what it has made to be fetched, which takes milliseconds


class Senses(Struct):
    """What an encoder has of a model."""

    model: str
    digest: str  # of its files and weights: what it makes is good for workers with the same
    cards: dict[str, MediaCard]
    towers: "Towers"


class Towers(Encodes, Protocol):
    """Eyes and ears, and what they take."""

    cards: dict[str, MediaCard]


def load(options: EngineOptions) -> Senses:
    """Load a model's eyes and ears. Raises ModelRefused."""
    from nodes.engines.numpy.config import Unsupported
    from nodes.engines.numpy.safetensors import Damaged

    folder, model = folder_of(options.model), name_of(options.model, options.name_as)
    try:
        towers = _towers(folder, options)
    except (Unsupported, Damaged, MemoryError) as error:
        raise ModelRefused(f"the encoder cannot use {folder}: {error or 'not enough memory'}") from None
    except ImportError as error:
        raise ModelRefused(f"--engine {options.engine} needs pip install 'wiremesh[transformers]': {error}") from None
    if towers is None:
        raise ModelRefused(f"{folder} has neither eyes nor ears: an encoder is of no use to it, start a worker")
    refuse_blind(towers.cards)
    build = f"{digest(ModelFiles(**contents_of(folder)))} {mark_of(folder)}"
    return Senses(model, build, towers.cards, towers)


def _towers(folder: Path, options: EngineOptions) -> Towers | None:
    """Those of the engine whose workers they see for: with vLLM and SGLang the transformers library is there too."""
    if options.engine in ("transformers", "vllm", "sglang"):
        from nodes.engines.transformers import vision
        from nodes.engines.transformers.library import torch

        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return vision.load(folder, device, options.dtype or "auto")
    from nodes.engines.numpy.towers import load as load_towers

    return load_towers(folder, options.exact)


def refuse_blind(cards: dict[str, MediaCard]) -> None:
    """Raise ModelRefused if what is installed cannot decode what the model takes."""
    missing = [kind for kind in cards if not decoder.reads(kind)]
    if missing:
        raise ModelRefused(
            f"this model takes {' and '.join(missing)}, and nothing is installed to decode that: "
            "pip install 'wiremesh[media]'"
        )


class Encoder(Beside):
    """Senses, and their place in the mesh."""

    def __init__(self, options: Options, senses: Senses, flags: EngineOptions, queue: int) -> None:
        self.senses = senses
        self.ways = flags.ways or WAYS
        self.plane: Plane | None = None
        self.embedder: Embedder | None = None
        self.teller = Teller(blocks=limits.CACHE_BYTES_DEFAULT // limits.CACHE_BLOCK_BYTES, report=self.reports)
        self.host = EncoderHost(senses.model, self.teller.feed)
        endpoints = {
            **node_endpoints(ROLE, lambda: self.actor, self.host.families, self.facts),
            **pool_endpoints(flags.pool),
        }
        self.actor = Actor(
            *(options, Role.WORKER, endpoints, ROLE, self.host, self.teller), slots=SLOTS + SIDE_LEGS, queue=queue
        )

    def reports(self) -> list[Report]:
        """What each Pong says of our load."""
        return [Report(self.host.active, 0)]

    def facts(self) -> dict[str, Any]:
        """What an encoder adds to its status."""
        senses = self.senses
        return {"model": senses.model, "digest": senses.digest, "kinds": list(senses.cards), "active": self.host.active}

    def introduction(self) -> str:
        senses = self.senses
        return introduction(ROLE, self.actor, f"encodes {', '.join(senses.cards)} for {senses.model}")

    async def begin(self) -> None:
        """Have a data plane, and what works on it."""
        senses = self.senses
        self.plane = await start_plane(self.actor, self.ways)
        memory = self.plane.allocate(limits.CACHE_BYTES_DEFAULT)
        self.embedder = Embedder(self.plane, memory.array, senses.cards, senses.digest, senses.towers)
        await self.embedder.decoder.warm()
        self.host.begin(self.embedder, memory)

    async def linger(self) -> None:
        """Requests fetch what was made for them."""
        await self.host.fetched(min(self.actor.options.drain_s, LINGER_S))

    async def end(self) -> None:
        if self.embedder is not None:
            self.embedder.close()
        if self.plane is not None:
            await self.plane.close()


async def run(options: Options, senses: Senses, flags: EngineOptions, queue: int) -> int:
    """An encoder from its start to its end; returns the exit code."""
    encoder = Encoder(options, senses, flags, queue)
    return await serve(encoder.actor, encoder.introduction, beside=encoder)
