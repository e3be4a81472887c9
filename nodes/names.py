"""Pure. The names by which nodes find each other's services on the mesh."""

from proto import limits

GENERATE = "generate/"  # a model's token streams: this and the model's name
CARD = "wiremesh.model.card"  # what a worker serves
FILE = "wiremesh.model.file"  # the content of its files
METRICS = "wiremesh.node.metrics"
DRAIN = "wiremesh.node.drain"
STATUS = "wiremesh.node.status"
STREAM = "wiremesh.frontend.stream"  # a stream that another frontend holds

MODEL_CHARS_MAX = limits.NAME_CHARS_MAX - len(GENERATE)


def endpoint_of(model: str) -> str:
    """Where the tokens of a model come from."""
    return GENERATE + model


def model_of(endpoint: str) -> str:
    """The model that an endpoint serves; empty if it is no such endpoint."""
    return endpoint.removeprefix(GENERATE) if endpoint.startswith(GENERATE) else ""


def is_model(name: str) -> bool:
    """Whether a model can be served by this name. Slashes are usual in them; spaces and control characters are not."""
    return 0 < len(name) <= MODEL_CHARS_MAX and name.isprintable() and " " not in name and not name.endswith("/")
