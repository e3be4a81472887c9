"""Pure. The flags of `wiremesh router`."""

from collections.abc import Mapping

from msgspec import Struct

from mesh.options import OptionRefused
from nodes.routing import knobs
from nodes.routing.knobs import CHOICES, KV, Knobs
from nodes.routing.split import ALIASES, POLICIES, SplitKnobs

NAMES = tuple(name.replace("_", "-") for name in CHOICES)
SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "none": None}
OFF = -1.0  # of a bound that may be absent


class RouterFlags(Struct, frozen=True):
    """What `wiremesh router` can be told, besides how to join."""

    policy: str = KV
    knob: tuple[str, ...] = ()
    disagg_policy: str = SplitKnobs().policy
    disagg_tokens: int = SplitKnobs().uncached_tokens_max
    disagg_ratio: float = SplitKnobs().uncached_ratio_max
    disagg_prefill_busy: float = OFF
    disagg_decode_busy: float = OFF
    enforce_disagg: bool = False

    def __post_init__(self) -> None:
        _require(self.policy in NAMES, "policy", self.policy, f"one of {', '.join(NAMES)}")
        policies = (*POLICIES, *ALIASES)
        _require(self.disagg_policy in policies, "disagg-policy", self.disagg_policy, f"one of {', '.join(policies)}")
        _require(self.disagg_tokens >= 0, "disagg-tokens", self.disagg_tokens, "0 or more")
        _require(0 <= self.disagg_ratio <= 1, "disagg-ratio", self.disagg_ratio, "between 0 and 1")
        for name in ("disagg_prefill_busy", "disagg_decode_busy"):
            value = getattr(self, name)
            _require(value == OFF or value >= 0, name.replace("_", "-"), value, "0 or more, or -1: no bound")
        self.knobs  # noqa: B018  # a mistake in one of them is told now

    @property
    def knobs(self) -> Knobs:
        """Those that were given, over the defaults."""
        try:
            return knobs.read(given(self.knob))
        except ValueError as error:
            raise OptionRefused(f"--knob: {error}") from None

    @property
    def splitting(self) -> SplitKnobs:
        """When a prompt is sent to a prefill worker."""
        return SplitKnobs(
            policy=self.disagg_policy,
            uncached_tokens_max=self.disagg_tokens,
            uncached_ratio_max=self.disagg_ratio,
            prefill_busy=None if self.disagg_prefill_busy == OFF else self.disagg_prefill_busy,
            decode_busy=None if self.disagg_decode_busy == OFF else self.disagg_decode_busy,
            enforce=self.enforce_disagg,
        )


def given(texts: tuple[str, ...]) -> Mapping[str, object]:
    """Knobs as they stand on a command line. Raises ValueError with a sentence."""
    found: dict[str, object] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"{text!r} must be NAME=VALUE, as in temperature=0.5")
        found[name.strip()] = value_of(value.strip())
    return found


def value_of(text: str) -> object:
    """What a word on a command line stands for."""
    if text.lower() in SWITCHES:
        return SWITCHES[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise OptionRefused(f"--{name} is {value!r}: it must be {wanted}")


_KNOBS = ", ".join(Knobs.__struct_fields__)
ROUTER_HELP = {
    "policy": f"who gets a request that names no policy: {', '.join(NAMES)} (default: kv, by caches and loads)",
    "knob": f"NAME=VALUE, may be repeated, of the kv policy: {_KNOBS}; Dynamo's names mean the same",
    "disagg_policy": "when a prompt skips the prefill workers: by its uncached length, by their load, or either "
    "(default: length)",
    "disagg_tokens": "so many uncached tokens are computed where they are decoded (default: 2048)",
    "disagg_ratio": "and so large a part of a prompt at most (default: 1)",
    "disagg_prefill_busy": "steps of work queued at each prefill worker; over it they are busy (default: -1, never)",
    "disagg_decode_busy": "part of a decode worker's blocks in use; over it prompts always go to prefill workers "
    "(default: -1, never)",
    "enforce_disagg": "refuse what no prefill worker can take",
}
