"""Pure. The caller of a generation, as a frontend is one: every token and row must be the undisturbed ones."""

from typing import TYPE_CHECKING, Any

from mesh.core import Deliver
from mesh.simulation.streams import ClientStream
from nodes import generation
from nodes.names import GENERATE, PREFILL
from nodes.simulation.plan import ServingCall, generation_of, prompt_of, rows, undisturbed
from proto.messages import Strength

if TYPE_CHECKING:
    from mesh.simulation.process import Process

NO_GENERATION = b"\xc1"  # a byte that no version of msgpack uses


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
        prefill = PREFILL + call.endpoint.removeprefix(GENERATE)
        self.feeders = (prefill,) if any(prefill in place.offers for place in process.world.plan.places) else ()
        self.kills = 0  # workers that died of it
        self.lost = 0  # holders in a row that came to nothing
        self.let_go = False  # the last holder refused it or handed it over: that is no loss

    def begin(self) -> None:
        """Ask, and perhaps change one's mind at once."""
        call, process = self.order, self.process
        pinned = process.world.node_of(call.pinned) if call.pinned >= 0 else 0
        self.ask(
            call.window, call.patience_s, call.timeout_s,
            policy=call.policy, pinned=pinned, stall_s=call.stall_s, routed=call.routed, moves_max=call.moves_max,
            needs=tuple(call.needs),
        )  # fmt: skip
        if call.cancel and call.when == "at":
            process.after(call.value, self.cancel)

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
