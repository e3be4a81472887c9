"""Pure. What a worker tells of the model that it serves, so that a frontend without a single file can serve it too."""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from nodes.contract.engine import Card
from proto.limits import KIB, NAME_CHARS_MAX, TEXT_CHARS_MAX

PIECE_BYTES_MAX = 256 * KIB  # one item of a file: a token of another stream never waits behind more


class ModelCard(Struct, frozen=True):
    """One model on one worker. Workers that serve the same name with another digest serve another model."""

    model: str  # the name by which it is served
    digest: str  # of what its tokens mean: `nodes.agreement`
    files: dict[str, int]  # bytes of each field of `ModelFiles`; those that are absent have none
    engine: Card
    created: int  # when it was loaded, seconds since 1970
    owned_by: str = "wiremesh"
    files_digest: str = ""  # of the content of all its files: `nodes.text.tokenizer.digest`
    weights: str = ""  # a mark of them: `nodes.tiers.weights`
    marks: dict[str, str] = {}  # what the digest is of

    @property
    def build(self) -> str:
        """Caches and embeddings are good for workers with the same alone."""
        return f"{self.files_digest or self.digest} {self.weights}".rstrip()


class FileRequest(Struct, frozen=True):
    """Which file is wanted: a field of `nodes.text.tokenizer.ModelFiles`."""

    name: str


class Objection(Struct, frozen=True):
    """Why a frontend gives a worker no requests; without a text it gives it some again."""

    frontend: Annotated[str, Meta(max_length=NAME_CHARS_MAX)]
    text: Annotated[str, Meta(max_length=TEXT_CHARS_MAX)] = ""


def pieces(content: bytes) -> Iterator[bytes]:
    """A file, cut for the mesh."""
    for start in range(0, len(content), PIECE_BYTES_MAX):
        yield content[start : start + PIECE_BYTES_MAX]
