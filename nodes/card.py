"""Pure. What a worker tells of the model that it serves, so that a frontend without a single file can serve it too."""

from collections.abc import Iterator

from msgspec import Struct

from nodes.engines.contract import Card
from proto.limits import KIB

PIECE_BYTES_MAX = 256 * KIB  # one item of a file: a token of another stream never waits behind more


class ModelCard(Struct, frozen=True):
    """One model on one worker. Workers that serve the same name with another digest serve another model."""

    model: str  # the name by which it is served
    digest: str  # of its files: `nodes.text.tokenizer.digest`
    files: dict[str, int]  # bytes of each field of `ModelFiles`; those that are absent have none
    engine: Card
    created: int  # when it was loaded, seconds since 1970
    owned_by: str = "wiremesh"


class FileRequest(Struct, frozen=True):
    """Which file is wanted: a field of `nodes.text.tokenizer.ModelFiles`."""

    name: str


def pieces(content: bytes) -> Iterator[bytes]:
    """A file, cut for the mesh."""
    for start in range(0, len(content), PIECE_BYTES_MAX):
        yield content[start : start + PIECE_BYTES_MAX]
