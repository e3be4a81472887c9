"""Pure. What a frontend counts. On the hot path these are additions to plain numbers; families are made on request."""

from msgspec import Struct

from nodes.metrics import SECONDS, Family, Histogram, Sample, counter, gauge, histogram

TOKENS = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)
GAPS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

COUNTERS = {
    "input_tokens": "Tokens of the prompts that were answered.",
    "embeddings": "Texts of which embeddings were made.",
    "pictures": "Pictures that were made.",
    "output_tokens": "Tokens that were generated.",
    "cached_tokens": "Tokens of prompts that a worker found in its cache.",
    "cancellations": "Requests that ended because nobody wanted them any more.",
    "disconnects": "Clients that went before their answer was complete.",
    "migrations": "Requests of the mesh that went on at another worker.",
    "attachments": "Clients that joined a generation which another request had begun.",
    "replays": "Streams that were continued by their id.",
    "proxied": "Streams of other frontends that were continued here.",
    "refused_bodies": "Requests that were refused before they reached the mesh.",
    "unauthorized": "Requests without a valid API key.",
    "rate_limited": "Requests beyond the quota of their API key.",
    "overloads": "Requests that were refused because this frontend, or the mesh, was full.",
    "pings": "Comments that kept connections open.",
    "refused_workers": "Workers whose model files differ from those that others serve under the same name.",
}


class Key(Struct, frozen=True, array_like=True):
    """What requests are counted by."""

    model: str
    endpoint: str
    stream: bool
    status: int


class Tally:
    """All numbers of one frontend."""

    def __init__(self) -> None:
        self.requests: dict[Key, int] = {}
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.in_flight = 0
        self.queued = 0
        self.first_token_s: dict[str, Histogram] = {}
        self.duration_s: dict[str, Histogram] = {}
        self.token_gap_s = Histogram(GAPS_S)
        self.token_gap = self.token_gap_s.add  # sampled once per write
        self.stall_s = Histogram()
        self.prompt_tokens = Histogram(TOKENS)
        self.answer_tokens = Histogram(TOKENS)

    def count(self, name: str, number: int = 1) -> None:
        """Add to one of COUNTERS."""
        self.counts[name] += number

    def first_token(self, model: str, seconds: float) -> None:
        """A request got its first token."""
        found = self.first_token_s.get(model)
        if found is None:
            found = self.first_token_s[model] = Histogram(SECONDS)
        found.add(seconds)

    def ended(self, key: Key, seconds: float) -> None:
        """A request is over."""
        self.requests[key] = self.requests.get(key, 0) + 1
        found = self.duration_s.get(key.model)
        if found is None:
            found = self.duration_s[key.model] = Histogram(SECONDS)
        found.add(seconds)

    def tokens(self, prompt: int, generated: int, cached: int) -> None:
        """What a generation cost."""
        counts = self.counts
        counts["input_tokens"] += prompt
        counts["output_tokens"] += generated
        counts["cached_tokens"] += cached
        self.prompt_tokens.add(prompt)
        self.answer_tokens.add(generated)

    def read(self, tokens: int, texts: int) -> None:
        """What a batch of embeddings cost."""
        self.counts["input_tokens"] += tokens
        self.counts["embeddings"] += texts
        self.prompt_tokens.add(tokens)

    def families(self, streams: int, kept: int, kept_bytes: int, workers: dict[str, int]) -> list[Family]:
        """All of it, and the gauges that others keep."""
        requests = [
            Sample(
                {
                    "model": key.model,
                    "endpoint": key.endpoint,
                    "type": "stream" if key.stream else "unary",
                    "status": str(key.status),
                },
                float(number),
            )
            for key, number in self.requests.items()
        ]
        prefix = "wiremesh_frontend_"
        return [
            Family(prefix + "requests_total", "counter", "Requests that are over, by HTTP status.", requests),
            *(counter(f"{prefix}{name}_total", text, self.counts[name]) for name, text in COUNTERS.items()),
            gauge(prefix + "requests_in_flight", "Requests that are not over.", self.in_flight),
            gauge(prefix + "requests_queued", "Requests that have no token yet.", self.queued),
            gauge(prefix + "sequences", "Sequences that are generated now.", streams),
            gauge(prefix + "kept_streams", "Streams that can be joined or continued.", kept),
            gauge(prefix + "kept_bytes", "Bytes of their events.", kept_bytes),
            gauge(prefix + "workers", "Workers that take work, by model.", dict(workers), "model"),
            histogram(
                prefix + "time_to_first_token_seconds", "From request to first token.", self.first_token_s, "model"
            ),
            histogram(prefix + "request_duration_seconds", "From request to end.", self.duration_s, "model"),
            histogram(prefix + "inter_token_latency_seconds", "Between tokens of a sequence.", self.token_gap_s),
            histogram(prefix + "migration_stall_seconds", "Longest silence of a migrated sequence.", self.stall_s),
            histogram(prefix + "prompt_tokens", "Tokens of a request's prompts.", self.prompt_tokens),
            histogram(prefix + "answer_tokens", "Tokens generated for a request.", self.answer_tokens),
        ]
