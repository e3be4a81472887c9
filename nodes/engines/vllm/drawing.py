"""Shell. Our sampler inside vLLM: a logits processor that decides, and leaves vLLM the one token that it chose.

It is the sampler of our own engines (`nodes.engines.numpy.sampling`) for a whole batch at once, on whatever device the
logits are: penalties and biases, temperature, top-k, top-p and min-p, then Gumbel noise that is a function of (seed,
position, token). So a stream that moves to another worker, of this engine or of another, goes on as it was.

This module is loaded by vLLM, in its own processes. A request that says nothing of us is not touched.
"""

from collections.abc import Sequence
from typing import Any

from nodes.engines.logits import process, processors_of
from nodes.engines.transformers.library import torch
from nodes.engines.vllm.arguments import PROCESSORS
from nodes.engines.vllm.guided import Guided, guides_in
from nodes.engines.vllm.library import part

PROCESSOR = "v1.sample.logits_processor"

EXTRA = "wiremesh"  # of SamplingParams.extra_args: see nodes.engines.vllm.params
COLD = 1e-5
WORD = (1 << 64) - 1
GAMMA, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64


class Drawn:
    """A request that is sampled here."""

    def __init__(self, wanted: dict[str, Any], prompt: Sequence[int], output: Sequence[int]) -> None:
        self.begins: int = wanted["begins"]  # where its output began, whoever made it
        self.seed: int = wanted["seed"]
        self.temperature: float = wanted["temperature"]
        self.top_k: int = wanted["top_k"]
        self.top_p: float = wanted["top_p"]
        self.min_p: float = wanted["min_p"]
        self.repetition: float = wanted["repetition_penalty"]
        self.frequency: float = wanted["frequency_penalty"]
        self.presence: float = wanted["presence_penalty"]
        self.bias: dict[int, float] = {int(token): bias for token, bias in wanted["logit_bias"].items()}
        self.prompt = prompt
        self.output = output  # vLLM appends to it
        self.guided: Guided | None = None

    @property
    def position(self) -> int:
        """Of the token that is chosen now, in the output."""
        return len(self.prompt) + len(self.output) - self.begins

    @property
    def tokens(self) -> list[int]:
        """Prompt and output, but for what is still being computed."""
        return [token for token in (*self.prompt, *self.output) if token >= 0]

    @property
    def adjusts(self) -> bool:
        return self.repetition != 1.0 or bool(self.frequency or self.presence or self.bias)

    def adjust(self, row: Any) -> None:
        """Penalties and biases, in place."""
        tokens = self.tokens
        if self.repetition != 1.0:
            seen = torch.tensor(sorted(set(tokens)), device=row.device)
            kept = row[seen]
            row[seen] = torch.where(kept > 0, kept / self.repetition, kept * self.repetition)
        said = tokens[self.begins :]
        if said and (self.frequency or self.presence):
            names, counts = torch.tensor(said, device=row.device).unique(return_counts=True)
            row[names] -= (counts * self.frequency + self.presence).to(row.dtype)
        for token, bias in self.bias.items():
            row[token] += bias


def _base() -> Any:
    try:
        return part(PROCESSOR).LogitsProcessor
    except ImportError:  # without vLLM it is nobody's
        return object


class KeyedSampling(_base()):  # type: ignore[misc]
    """What vLLM calls at each step."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self._processors = processors_of((vllm_config.additional_config or {}).get(PROCESSORS, ()))
        self._drawn: dict[int, Drawn] = {}  # by row of the batch
        self._guides = guides_in(vllm_config.model_config)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        part(PROCESSOR).process_dict_updates(self._drawn, batch_update, self._taken)

    def _taken(self, params: Any, prompt: Sequence[int] | None, output: Sequence[int]) -> Drawn | None:
        found = _drawn_of(params, prompt, output)
        if found is not None and self._guides is not None and (params.extra_args or {})[EXTRA].get("guide"):
            found.guided = Guided(self._guides, params.extra_args[EXTRA])
        return found

    def apply(self, logits: Any) -> Any:
        rows = sorted(row for row in self._drawn if row < len(logits))
        if not rows:
            return logits
        asked = [self._drawn[row] for row in rows]
        for row, one in zip(rows, asked, strict=True):
            if self._processors:  # one that fails is left out: vLLM has no way to end one request from here
                process(self._processors, one.tokens, logits[row])
            if one.adjusts:
                one.adjust(logits[row])
            if one.guided is not None:
                one.guided.mask(logits[row], one.tokens, one.position)
        warm = [index for index, one in enumerate(asked) if one.temperature >= COLD]
        if warm:
            places = torch.tensor([rows[index] for index in warm], device=logits.device)
            chosen = drawn(logits[places].double(), [asked[index] for index in warm])
            logits[places] = -torch.inf
            logits[places, chosen] = 0.0
        return logits


def _drawn_of(params: Any, prompt: Sequence[int] | None, output: Sequence[int]) -> Drawn | None:
    wanted = (params.extra_args or {}).get(EXTRA)
    return None if wanted is None else Drawn(wanted, prompt or (), output)


def drawn(logits: Any, asked: Sequence[Any]) -> Any:
    """One token of each row, in proportion to the probabilities of its candidates."""
    scaled = logits / _column(logits, [one.temperature for one in asked])
    starts = torch.tensor([_start(one.seed, one.position) for one in asked], device=logits.device)[:, None]
    if not any(one.top_k > 0 or one.top_p < 1.0 or one.min_p > 0.0 for one in asked):
        everyone = torch.arange(scaled.shape[1], device=logits.device)[None, :]
        return (scaled + gumbel(starts, everyone)).argmax(dim=1)
    ordered, tokens = scaled.sort(dim=1, descending=True, stable=True)
    ranks = torch.arange(scaled.shape[1], device=logits.device)[None, :]
    kept = ordered > -torch.inf
    kept &= ranks < _column(logits, [one.top_k if one.top_k > 0 else scaled.shape[1] for one in asked])
    weights = torch.exp(ordered - ordered[:, :1]) * kept
    before = weights.cumsum(dim=1) - weights
    top_p = _column(logits, [one.top_p for one in asked])
    kept &= (before < top_p * weights.sum(dim=1, keepdim=True)) | (top_p >= 1.0) | (ranks == 0)
    kept &= ordered >= ordered[:, :1] + torch.log(_column(logits, [one.min_p for one in asked]))
    noisy = torch.where(kept, ordered + gumbel(starts, tokens), -torch.inf)
    return tokens.gather(1, noisy.argmax(dim=1, keepdim=True))[:, 0]


def _column(logits: Any, values: Sequence[float]) -> Any:
    return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]


def gumbel(starts: Any, tokens: Any) -> Any:
    """Noise, by a counter-based generator: splitmix64 of the token, from a start that seed and position give.

    In signed numbers, which wrap around alike; a shift to the right must not bring copies of the sign.
    """
    bits = tokens * _signed(GAMMA) + starts
    bits = (bits ^ _right(bits, 30)) * _signed(MIX_1)
    bits = (bits ^ _right(bits, 27)) * _signed(MIX_2)
    bits = bits ^ _right(bits, 31)
    uniform = (_right(bits, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform))


def _right(bits: Any, count: int) -> Any:
    return (bits >> count) & ((1 << 64 - count) - 1)


def _start(seed: int, position: int) -> int:
    return _signed(_mixed(_mixed((seed + GAMMA) & WORD) + (position + 1) * GAMMA & WORD))


def _mixed(bits: int) -> int:
    bits = (bits ^ (bits >> 30)) * MIX_1 & WORD
    bits = (bits ^ (bits >> 27)) * MIX_2 & WORD
    return bits ^ (bits >> 31)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits
