"""Pure. Handing over by an engine's own connector: the mesh carries what one engine says to the next, and reads none.

"after": who computed the prompt says where its cache lies when it is done (vLLM, TensorRT-LLM). Who goes on gets the
job then, with the tokens made so far. "beside": both engines run at once and find each other by what the first said
when it began (SGLang); what the second makes before it may speak is kept, and what others told is left out.

What a prompt shows goes along: who goes on may have to compute it after all, and need not look at a picture again.

What comes from another engine, or from other weights, is refused. So is what is too large for a message. The prompt is
computed again then, unless that was forbidden. How long such words are good for, only the adapter of the engine knows.
"""

from collections.abc import Hashable, Sequence

from msgspec import Struct, field

from nodes import parcels
from nodes.contract.engine import Output
from nodes.parcels import Parcel
from nodes.transfer.handle import Handle

AFTER, BESIDE = "after", "beside"
Rows = tuple[Handle, bytes]  # where embeddings lie, one after another, and the names of their parts
UNSEEN: Rows = (parcels.NOWHERE, b"")


def mark_of(engine: str, build: str) -> str:
    """What two engines must have in common."""
    return f"{engine} {build}"


class Early(Struct, eq=False):
    """A leg whose engine runs beside the one that feeds it."""

    outputs: list[Output] = field(default_factory=list)  # before Go
    awaits: bool = True
    known: list[int] = field(default_factory=list)  # told by others: to be left out


class Native:
    """The legs of a worker whose engine hands over by itself. `mode` is its card's, `mark` says which model it is."""

    def __init__(self, mode: str = "", mark: str = "") -> None:
        self.mode = mode
        self.mark = mark
        self.early: dict[Hashable, Early] = {}

    def packed(self, native: bytes, positions: int, rows: Rows = UNSEEN) -> bytes:
        """The parcel for who goes on; nothing if it is too large."""
        if len(native) > parcels.NATIVE_BYTES_MAX:
            return b""
        handle, content = rows
        return parcels.encode(Parcel(parcels.NATIVE, handle, self.mark, 0, positions, content, native))

    def of(self, handles: Sequence[bytes]) -> tuple[bytes, int]:
        """What the last engine before us said, if ours can use it; and how many parcels it cannot use."""
        foreign = 0
        for packed in reversed(handles):
            try:
                parcel = parcels.decode(packed)
            except ValueError:
                foreign += 1
                continue
            if parcel.kind == parcels.NATIVE and parcel.digest == self.mark:
                return parcel.native, foreign
            foreign += parcel.kind in (parcels.NATIVE, parcels.BLOCKS)
        return b"", foreign

    def begins(self, leg: Hashable, awaits: bool) -> bool:
        """Whether the engine may have the job of this leg at once."""
        if not awaits:
            return True
        if self.mode == BESIDE:
            self.early[leg] = Early()
        return self.mode == BESIDE

    def sift(self, outputs: Sequence[Output]) -> tuple[list[Output], list[Hashable]]:
        """What may be told now of what was made, and the legs that made something else than was told already."""
        told: list[Output] = []
        parted: list[Hashable] = []
        for output in outputs:
            early = self.early.get(output.key)
            if early is None:
                told.append(output)
            elif early.awaits:
                early.outputs.append(output)
            elif self._cut(output, early):
                told.append(output)
            else:
                parted.append(output.key)
        return told, parted

    def go(self, leg: Hashable, tokens: Sequence[int]) -> list[Output]:
        """These were told by others: what was made here meanwhile, to be sifted."""
        early = self.early.get(leg)
        if early is None or not early.awaits:
            return []
        early.awaits, early.known = False, [*tokens]
        outputs, early.outputs = early.outputs, []
        if not tokens and not outputs:
            del self.early[leg]
        return outputs

    def over(self, leg: Hashable) -> None:
        """It has ended."""
        self.early.pop(leg, None)

    def _cut(self, output: Output, early: Early) -> bool:
        """Leave out what was told already. False: it is something else, so what follows fits nothing."""
        count = min(len(output.tokens), len(early.known))
        if list(output.tokens[:count]) != early.known[:count]:
            return False
        del early.known[:count]
        output.tokens, output.logprobs = output.tokens[count:], output.logprobs[count:]
        if not early.known:
            del self.early[output.key]
        return True
