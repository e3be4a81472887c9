"""Pure. The caller of a generation, as a frontend is one: every token and row must be the undisturbed ones."""

from typing import TYPE_CHECKING, Any

from mesh.core import Deliver, Finish
from mesh.simulation.streams import ClientStream
from nodes import generation, parcels
from nodes.contract.media import Media
from nodes.engines.sim import SimEngine
from nodes.frontend.wishing import Manner, wish_of
from nodes.media.content import pack
from nodes.names import ENCODE, GENERATE, PREFILL
from nodes.simulation.pictures import SPOILT, data_of
from nodes.simulation.plan import (
    WORKER,
    ServingCall,
    ServingPlace,
    engine_settings,
    generation_of,
    prompt_of,
    rows,
    spots_of,
    undisturbed,
)
from nodes.simulation.planes import ANY, SimOffer, SimPlane
from nodes.simulation.worker import digest
from proto.messages import Role, Strength
from proto.placing import Wish

if TYPE_CHECKING:
    from mesh.simulation.process import Process

CARD = SimEngine(engine_settings(ServingPlace(WORKER, int(Role.WORKER))), digest).start()  # all have such blocks
NO_GENERATION = b"\xc1"  # a byte that no version of msgpack uses
LEASE_S = 3600.0  # what is laid out for a request stays for as long as it lasts


class ServingStream(ClientStream):
    """A request of a frontend, as the plan has it."""

    def __init__(self, process: "Process", call: ServingCall) -> None:
        super().__init__(process, call)
        self.order = call
        self.prompt = prompt_of(call)
        wanted = generation_of(call, self.prompt)
        tokens, self.stops = undisturbed(wanted, self.prompt)
        self.expected = tokens
        self.rows = rows(tokens, self.prompt, call.logprobs) if call.logprobs >= 0 else []
        self.payload = generation.encode(wanted) if call.wrong != "payload" else NO_GENERATION
        self.resumable = True
        model = call.endpoint.removeprefix(GENERATE)
        offered = {endpoint: None for place in process.world.plan.places for endpoint in place.offers}
        stops = (ENCODE + model, PREFILL + model) if call.pictures else (PREFILL + model,)
        self.feeders = tuple(endpoint for endpoint in stops if endpoint in offered)
        self.laid: SimOffer | None = None  # its pictures
        self.kills = 0  # workers that died of it
        self.lost = 0  # holders in a row that came to nothing
        self.let_go = False  # the last holder refused it or handed it over: that is no loss

    def begin(self) -> None:
        """Ask, and perhaps change one's mind at once."""
        call, process = self.order, self.process
        pinned = process.world.node_of(call.pinned) if call.pinned >= 0 else 0
        self.handles = list(handles := self._lay())
        encoder = ENCODE + call.endpoint.removeprefix(GENERATE)
        seen = [encoder] if handles and process.node.instances(encoder) else []
        self.ask(
            call.window, call.patience_s, call.timeout_s,
            policy=call.policy, pinned=pinned, stall_s=call.stall_s, routed=call.routed, moves_max=call.moves_max,
            needs=(*seen, *call.needs), wish=self._wish(), handles=handles,
        )  # fmt: skip
        if call.cancel and call.when == "at":
            process.after(call.value, self.cancel)

    def _lay(self) -> tuple[bytes, ...]:
        """Lay its pictures out, as a frontend does."""
        spots = spots_of(self.order)
        if not spots:
            return ()
        parts = {spot.content: data_of(number) for spot, number in zip(spots, self.order.pictures, strict=True)}
        if self.order.spoilt:
            parts[spots[0].content] = SPOILT if self.order.spoilt == "bytes" else data_of(self.order.pictures[0] + 1)
        packed = pack(list(parts.values()))
        plane: SimPlane = self.process.plane  # type: ignore[attr-defined]
        self.laid = plane.offer(plane.register(packed), lease_s=LEASE_S, pulls=ANY)
        return (parcels.encode(parcels.Parcel(parcels.MEDIA, self.laid.handle(), "", 0, len(parts), b"".join(parts))),)

    def ended(self, effect: Finish) -> None:
        """Nobody needs its pictures any more."""
        if self.laid is not None:
            self.laid.withdraw()

    def _wish(self) -> Wish | None:
        """What a frontend tells a router of it."""
        order = self.order
        if not order.wishes:
            return None
        manner = Manner(priority=order.priority, expected_tokens=order.max_tokens, session=order.session)
        media = [Media(spot.first, spot.count, spot.content) for spot in spots_of(order)]
        return wish_of(manner, self.prompt, CARD, order.salt, digest, media)

    def cancel(self) -> None:
        """Change one's mind."""
        self.abandon(Strength.STOP if self.order.cancel == "stop" else Strength.KILL)

    def units(self, effect: Deliver) -> list[Any]:
        """Tokens, each with its row if rows were asked for."""
        self.lost = 0
        at, tokens, items = self.position, list(effect.tokens), list(effect.items)
        rows_fit = items == self.rows[at : at + len(tokens)] if self.rows else not items
        return tokens if rows_fit else []

    def resumes_from(self) -> int:
        """All tokens go along."""
        return self.position
