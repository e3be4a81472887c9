"""Pure. How an engine is to be set up: what a worker's command line says of it, checked."""

from collections.abc import Sequence
from itertools import pairwise
from math import inf

from msgspec import Struct

from mesh.options import OptionRefused
from nodes import faults
from nodes.engines.timing import Timing

ENGINES = ("numpy", "sim")
KV_BYTES = 1 << 30  # of key-value cache: taken from the system only as it is used
SLOTS_MAX = 4_096  # streams in one chunk of the mesh
POINT_FORM = "TOKENS:MILLISECONDS, as in 1000:30"


class EngineOptions(Struct, frozen=True):
    """Which model, and the engine's own settings. 0 means: what suits the engine and its model."""

    model: str = "demo"
    name_as: str = ""
    engine: str = "numpy"
    slots: int = 0
    context: int = 0
    block_tokens: int = 16
    blocks: int = 0
    kv_bytes: int = KV_BYTES
    step_tokens: int = 0
    caching: bool = True
    hand_over: bool = False
    exact: bool = False
    speedup: float = 1.0
    prefill_ms: tuple[str, ...] = ()
    decode_ms: tuple[str, ...] = ()
    fault: str = ""
    poison: int = -1

    def __post_init__(self) -> None:
        _require(self.engine in ENGINES, "engine", self.engine, " or ".join(ENGINES))
        _require(0 <= self.slots <= SLOTS_MAX, "slots", self.slots, f"between 0 and {SLOTS_MAX}")
        for name in ("context", "blocks", "step_tokens"):
            _require(0 <= getattr(self, name) <= 2**31, name, getattr(self, name), "0 or more")
        _require(1 <= self.block_tokens <= 1024, "block_tokens", self.block_tokens, "between 1 and 1024")
        _require(self.kv_bytes > 0, "kv_bytes", self.kv_bytes, "bytes, more than 0")
        _require(0 <= self.speedup < inf, "speedup", self.speedup, "0 (as fast as it can) or more")
        _try("prefill_ms", points, self.prefill_ms)
        _try("decode_ms", points, self.decode_ms)
        _try("fault", faults.parse, self.fault)
        _foreign(self)

    @property
    def timing(self) -> Timing:
        """How long a simulated step takes."""
        return Timing(self.speedup, points(self.prefill_ms), points(self.decode_ms))


def points(texts: Sequence[str]) -> tuple[tuple[float, float], ...]:
    """Measured points of a table. Raises ValueError."""
    found: list[tuple[float, float]] = []
    for text in texts:
        tokens, _, milliseconds = text.partition(":")
        try:
            point = float(tokens), float(milliseconds)
        except ValueError:
            raise ValueError(f"each must be {POINT_FORM}") from None
        if not (0 <= point[0] < inf and 0 <= point[1] < inf):
            raise ValueError("tokens and milliseconds must be 0 or more")
        found.append(point)
    if any(one[0] >= other[0] for one, other in pairwise(found)):
        raise ValueError("the tokens must ascend")
    return tuple(found)


ONLY = {
    "sim": ("blocks", "speedup", "prefill_ms", "decode_ms", "fault", "poison"),
    "numpy": ("kv_bytes", "exact"),
}


def _foreign(options: EngineOptions) -> None:
    """A flag of the other engine is a mistake, not something to be ignored."""
    defaults = dict(zip(EngineOptions.__struct_fields__, EngineOptions.__struct_defaults__, strict=True))
    for engine, names in ONLY.items():
        for name in names if engine != options.engine else ():
            if getattr(options, name) != defaults[name]:
                raise OptionRefused(f"--{name.replace('_', '-')} is for --engine {engine}, not {options.engine}")


def _try(name: str, parse: object, value: object) -> None:
    assert callable(parse)
    try:
        parse(value)
    except ValueError as error:
        shown = " ".join(value) if isinstance(value, tuple) else value
        raise OptionRefused(f"--{name.replace('_', '-')} is {shown!r}: {error}") from None


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise OptionRefused(f"--{name.replace('_', '-')} is {value!r}: it must be {wanted}")
