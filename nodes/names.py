"""Pure. The names by which nodes find each other's services on the mesh."""

from proto import limits

GENERATE = "generate/"  # a model's token streams: this and the model's name
PREFILL = "prefill/"  # its prompts, computed for who generates
ALONE = "wiremesh.worker.alone"  # a tag: a worker that neither hands caches over nor takes any
POOL = "pool/"  # a tag: who serves it belongs to the pool of that name
ENCODE = "encode/"  # its pictures and sounds, made into embeddings
IMAGINE = "imagine/"  # pictures and clips that a model makes
CARD = "wiremesh.model.card"  # what a worker serves
FILE = "wiremesh.model.file"  # the content of its files
OBJECT = "wiremesh.model.object"  # a frontend tells a worker why it gives it no requests
METRICS = "wiremesh.node.metrics"
DRAIN = "wiremesh.node.drain"
STATUS = "wiremesh.node.status"
SLEEP = "wiremesh.worker.sleep"  # its engine gives memory back
WAKE = "wiremesh.worker.wake"
STREAM = "wiremesh.frontend.stream"  # a stream that another frontend holds
REQUESTS = "wiremesh.frontend.requests"  # which requests of the mesh an answer is made of
EXPLAIN = "wiremesh.router.explain"  # why a request went where it went
OVERLAP = "wiremesh.router.overlap"  # how much of a prompt each worker has cached

MODEL_CHARS_MAX = limits.NAME_CHARS_MAX - len(GENERATE)
POOL_CHARS_MAX = limits.NAME_CHARS_MAX - len(POOL)  # the tag is the name of an endpoint


def endpoint_of(model: str) -> str:
    """Where the tokens of a model come from."""
    return GENERATE + model


def offered_by(role: str, model: str) -> str:
    """What a worker of this role offers; one that decodes can do whole requests too."""
    return {"prefill": PREFILL, "encoder": ENCODE}.get(role, GENERATE) + model


def model_of(endpoint: str) -> str:
    """The model that an endpoint serves; empty if it is no such endpoint."""
    return endpoint.removeprefix(GENERATE) if endpoint.startswith(GENERATE) else ""


def fed_by(endpoint: str) -> str:
    """The model whose prompts an endpoint computes; empty if it is no such endpoint."""
    return endpoint.removeprefix(PREFILL) if endpoint.startswith(PREFILL) else ""


def is_model(name: str) -> bool:
    """Whether a model can be served by this name. Slashes are usual in them; spaces and control characters are not."""
    return 0 < len(name) <= MODEL_CHARS_MAX and name.isprintable() and " " not in name and not name.endswith("/")


def is_pool(name: str) -> bool:
    """Whether a pool can have this name."""
    return 0 < len(name) <= POOL_CHARS_MAX and name.isprintable() and " " not in name and "/" not in name
