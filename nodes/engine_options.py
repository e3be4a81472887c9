"""Pure. How an engine is to be set up: what a worker's command line says of it, checked."""

from collections.abc import Sequence
from itertools import pairwise
from math import inf

from msgspec import Struct

from mesh.options import OptionRefused
from nodes import faults
from nodes.names import POOL_CHARS_MAX, is_pool
from nodes.tiers.options import USES, USES_MAX, Asked, disk_of, read, store_of
from nodes.transfer.causes import Way

ENGINES = ("numpy", "transformers", "llama", "sim", "openai", "vllm", "sglang", "trtllm")
NATIVE = ("vllm", "sglang", "trtllm", "llama")  # engines with flags of their own, which are passed on as they are
DIFFUSION = ("image", "video")
ROLES = ("worker", "prefill", "decode", "encoder")
STAGING_BYTES = 256 << 20  # some prompts of a large model on their way; taken from the system only as it is used
WAYS = "shared,bulk"  # NIXL only where it is asked for: its sockets know no mesh key
KV_BYTES = 1 << 30  # of key-value cache: taken from the system only as it is used
POOL_FORM = f"at most {POOL_CHARS_MAX} printable characters, without spaces and slashes"
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
    device: str = ""
    dtype: str = ""
    speedup: float = 1.0
    prefill_ms: tuple[str, ...] = ()
    decode_ms: tuple[str, ...] = ()
    fault: str = ""
    poison: int = -1
    kv_host_bytes: int = 0
    kv_disk: str = ""
    kv_store: str = ""
    kv_uses: int = USES
    role: str = "worker"
    enforce_disagg: bool = False
    kv_staging_bytes: int = STAGING_BYTES
    transports: str = WAYS
    pool: str = ""
    native: tuple[str, ...] = ()
    logits_processor: tuple[str, ...] = ()
    url: str = ""
    url_model: str = ""
    url_key_file: str = ""
    diffusion: str = ""

    def __post_init__(self) -> None:
        _require(self.engine in ENGINES, "engine", self.engine, ", ".join(ENGINES[:-1]) + " or " + ENGINES[-1])
        _require(0 <= self.slots <= SLOTS_MAX, "slots", self.slots, f"between 0 and {SLOTS_MAX}")
        for name in ("context", "blocks", "step_tokens"):
            _require(0 <= getattr(self, name) <= 2**31, name, getattr(self, name), "0 or more")
        _require(1 <= self.block_tokens <= 1024, "block_tokens", self.block_tokens, "between 1 and 1024")
        _require(self.role in ROLES, "role", self.role, ", ".join(ROLES[:-1]) + " or " + ROLES[-1])
        if self.enforce_disagg and self.role != "decode":
            raise OptionRefused(f"--enforce-disagg is for --role decode, not {self.role}")
        _require(self.kv_staging_bytes >= 0, "kv_staging_bytes", self.kv_staging_bytes, "bytes, 0 or more")
        _try("transports", ways_of, self.transports)
        _require(not self.pool or is_pool(self.pool), "pool", self.pool, POOL_FORM)
        _require(self.kv_bytes > 0, "kv_bytes", self.kv_bytes, "bytes, more than 0")
        _require(0 <= self.speedup < inf, "speedup", self.speedup, "0 (as fast as it can) or more")
        _try("prefill_ms", points, self.prefill_ms)
        _try("decode_ms", points, self.decode_ms)
        _try("fault", faults.parse, self.fault)
        _require(self.kv_host_bytes >= 0, "kv_host_bytes", self.kv_host_bytes, "bytes, 0 or more")
        _require(1 <= self.kv_uses <= USES_MAX, "kv_uses", self.kv_uses, f"between 1 and {USES_MAX}")
        _try("kv_disk", lambda text: text and disk_of(text), self.kv_disk)
        _try("kv_store", lambda text: text and store_of(text), self.kv_store)
        if self.model.endswith(".gguf") and self.engine not in ("llama", "openai", "sim"):
            raise OptionRefused(
                f"--model {self.model} is for --engine llama: the {self.engine} engine wants a directory"
            )
        _foreign(self)
        _behind_url(self)
        _diffuses(self)
        if self.tiers is not None and not (self.caching and self.role != "encoder"):
            raise OptionRefused(
                "--kv-host-bytes, --kv-disk and --kv-store are for workers that keep a cache of prompts"
            )

    @property
    def tiers(self) -> Asked | None:
        """The tiers below the cache."""
        return read(self.kv_host_bytes, self.kv_disk, self.kv_store, self.kv_uses)

    @property
    def ways(self) -> tuple[Way, ...]:
        """The transports that caches may be moved by, the best first."""
        return ways_of(self.transports)


def ways_of(text: str) -> tuple[Way, ...]:
    """Transports from a list with commas. Raises ValueError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {str(way): way for way in Way}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is no transport; there are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))


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


ONLY = {  # which engines a flag is for
    **dict.fromkeys(("blocks", "speedup", "prefill_ms", "decode_ms", "fault", "poison"), ("sim",)),
    "device": ("transformers", "sglang"),
    "dtype": ("transformers", "llama", "vllm", "sglang", "trtllm"),
    "exact": ("numpy",),
    "native": NATIVE,
    "logits_processor": ("numpy", "transformers", "llama", "trtllm", "vllm"),
    **dict.fromkeys(("url", "url_model", "url_key_file"), ("openai",)),
    **dict.fromkeys(("kv_host_bytes", "kv_disk", "kv_store", "kv_uses"), ("numpy", "transformers", "llama", "sim")),
    "kv_bytes": ("numpy", "transformers", "llama"),
    "diffusion": ("transformers", "trtllm"),
}


def _foreign(options: EngineOptions) -> None:
    """A flag of the other engine is a mistake, not something to be ignored."""
    defaults = dict(zip(EngineOptions.__struct_fields__, EngineOptions.__struct_defaults__, strict=True))
    for name, engines in ONLY.items():
        if options.engine not in engines and getattr(options, name) != defaults[name]:
            meant = " or ".join(engines)
            raise OptionRefused(f"--{name.replace('_', '-')} is for --engine {meant}, not {options.engine}")


def _behind_url(options: EngineOptions) -> None:
    """What is only for an engine behind a URL, or is not for it."""
    if options.engine != "openai":
        return
    holds = options.url.startswith(("http://", "https://")) and len(options.url.split("://")[1]) > 0
    _require(holds, "url", options.url, "the server's OpenAI-compatible URL, as in http://127.0.0.1:8001/v1")
    if options.role != "worker":
        raise OptionRefused(f"--engine openai is for --role worker, not {options.role}: no server hands its cache over")


def _diffuses(options: EngineOptions) -> None:
    """What is of no use to a worker that makes pictures."""
    if not options.diffusion:
        return
    _require(options.diffusion in DIFFUSION, "diffusion", options.diffusion, " or ".join(DIFFUSION))
    if options.role != "worker":
        raise OptionRefused(f"--diffusion is for --role worker, not {options.role}")
    if options.slots > 1:
        raise OptionRefused("--slots is for engines that batch: with --diffusion one picture is made at a time")
    if options.logits_processor or options.context:
        raise OptionRefused("--logits-processor and --context are for engines that make tokens: leave out --diffusion")


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
