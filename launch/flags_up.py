"""Pure. The flags of `wiremesh up`."""

from msgspec import Struct

from mesh.options import OptionRefused, flag_of

PROCESSES_MAX = 256  # of one kind, on one host: more is a slip of the finger
PORT_MAX = 65_535
MESH_FLAGS = ("join", "mesh", "key", "log_format", "drain_s")  # of mesh.options: every node gets them as they are


# What each shape has of workers, prefill workers, decode workers and encoders, if nobody says more.
TOPOLOGIES = {
    "agg": ("workers",),
    "pd": ("prefill", "decode"),
    "epd": ("encoders", "prefill", "decode"),
    "e-pd": ("encoders", "workers"),
    "ep-d": ("prefill", "decode"),
}
UNSAID = -(1 << 31)  # so that every number that somebody types can be told from it
KINDS = ("workers", "prefill", "decode", "encoders")


class UpFlags(Struct, frozen=True):
    """What `wiremesh up` can be told."""

    model: str = ""
    engine: str = ""
    topology: str = "agg"
    workers: int = UNSAID
    prefill: int = UNSAID
    decode: int = UNSAID
    encoders: int = UNSAID
    frontends: int = 1
    routers: int = UNSAID
    host: str = "127.0.0.1"
    port: int = 8000
    json: bool = False

    def __post_init__(self) -> None:
        if self.topology not in TOPOLOGIES:
            known = ", ".join(TOPOLOGIES)
            raise OptionRefused(f"--topology is {self.topology!r}: it must be one of {known}")
        for name in (*KINDS, "frontends", "routers"):
            count = getattr(self, name)
            if count != UNSAID and not 0 <= count <= PROCESSES_MAX:
                raise OptionRefused(f"{flag_of(name)} is {count}: it must be 0 to {PROCESSES_MAX}")
        for name in KINDS:
            if getattr(self, name) > 0 and name not in TOPOLOGIES[self.topology]:
                fitting = next((key for key, kinds in TOPOLOGIES.items() if name in kinds), "")
                raise OptionRefused(
                    f"{flag_of(name)} does not belong to --topology {self.topology}; it does to --topology {fitting}"
                )
        if not self.frontends + self.count("routers") + sum(map(self.count, KINDS)):
            raise OptionRefused("--workers, --frontends and --routers are all 0: nothing would run")
        if not 0 <= self.port <= PORT_MAX:
            raise OptionRefused(f"--port is {self.port}: it must be 0 (any that is free) to {PORT_MAX}")

    def count(self, kind: str) -> int:
        """How many nodes of a kind: what was said, or what the shape has."""
        said: int = getattr(self, kind)
        if said != UNSAID:
            return said
        return int(self.topology != "agg") if kind == "routers" else int(kind in TOPOLOGIES[self.topology])


UP_HELP = {
    "model": "a Hugging Face model directory, or demo, the small model that comes with Wiremesh (default: demo)",
    "engine": "what computes: numpy (a real model on the CPU), sim (a model of time, tokens that can be checked) or "
    "another of 'wiremesh engines' that is in this environment; default: what 'wiremesh worker' would take",
    "topology": "which work is done apart: agg (nothing: each worker does whole requests), pd (prefill and decode), "
    "epd (encoders for pictures and sounds, prefill, decode), e-pd (encoders, and workers for the rest), ep-d (prefill "
    "workers that also encode, and decode) (default: agg)",
    "workers": "agg, e-pd: how many workers, each a process with the whole model; 0 uses those that others start "
    "(default: 1)",
    "prefill": "pd, epd, ep-d: how many prefill workers (default: 1)",
    "decode": "pd, epd, ep-d: how many decode workers (default: 1)",
    "encoders": "epd, e-pd: how many encoders (default: 1)",
    "frontends": "how many frontends share the port (default: 1)",
    "routers": "how many routers; without one each frontend places its requests by itself (default: 0 for agg, else 1)",
    "host": "where the frontends listen (default: 127.0.0.1, this host only)",
    "port": "the frontends' HTTP port; 0 takes any that is free (default: 8000)",
    "json": "tell what happens as one JSON object for each line, and nothing else, on the standard output",
}
UP_WORDS_HELP = "flags after -- are for the workers, as in: wiremesh up --engine sim -- --speedup 0; behind "
"another -- they are for the engine, as in: wiremesh up --engine vllm -- --slots 8 -- --enforce-eager"
UP_EPILOG = """\
Every node is a process of its own in the mesh of --join and --mesh, so
'wiremesh nodes', 'worker' or 'drain' in another terminal meet these nodes. One
that dies is started again. What 'up' has no flag for is a variable of the
node's command, such as WIREMESH_WORKER_SLOTS or WIREMESH_FRONTEND_API_KEYS (see
'wiremesh worker --help' and so on).

Ctrl-C, SIGTERM: no new requests, what runs may finish within --drain-s, then
all nodes leave. Once more ends them at once.

exit codes: 0 stopped as asked; 1 a node did not leave in time and was killed;
69 the port is in use; 70 a node crashed each time before it was ready; 77 and
78 a node refused its key or a setting; 130 ended by a second Ctrl-C; 141 the
reader of our output has gone.
"""
