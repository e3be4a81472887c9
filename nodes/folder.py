"""Shell. A model's directory: where it is, and the files of it that travel through the mesh."""

from pathlib import Path

from mesh.options import OptionRefused
from nodes.names import MODEL_CHARS_MAX, is_model
from proto.limits import MIB

DEMO = "demo"  # the name of the model that comes with Wiremesh
FILE_BYTES_MAX = 128 * MIB  # of one file that travels: the largest tokenizers have 35 MB


class ModelRefused(OptionRefused):
    """A model that cannot be served. Its text says why, and what would do."""


def folder_of(model: str) -> Path:
    """The directory of a model that was named on a command line."""
    if model == DEMO:
        folder = Path(__file__).parent / "models" / DEMO
        if not folder.is_dir():
            raise ModelRefused(f"the demo model is not installed ({folder} is missing): give --model a directory")
        return folder
    folder = Path(model).expanduser()
    if not folder.is_dir():
        what = "no directory" if folder.exists() else "not there"
        raise ModelRefused(f"--model {model!r} is {what}: it must be {DEMO!r} or a model's directory")
    return folder


def name_of(model: str, name_as: str) -> str:
    """The name by which a model is served: the directory's, unless another was given."""
    name = name_as or (DEMO if model == DEMO else folder_of(model).resolve().name)
    if not is_model(name):
        raise ModelRefused(f"{name!r} is no model name: --name-as takes {MODEL_CHARS_MAX} characters and no spaces")
    return name


def contents_of(folder: Path) -> dict[str, bytes]:
    """The fields of `nodes.text.tokenizer.ModelFiles`; a file that is not there is empty."""
    from nodes.text.tokenizer import NAMES  # It loads the tokenizers library, which only a worker needs.

    found = {field: _read(folder, names) for field, names in NAMES.items()}
    if not found["tokenizer"]:
        raise ModelRefused(f"{folder} has no tokenizer.json: no model can be served without its tokenizer")
    return found


def size_of(folder: Path) -> int:
    """Bytes of all its files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _read(folder: Path, names: tuple[str, ...]) -> bytes:
    for name in names:
        path = folder / name
        try:
            if path.is_file():
                if path.stat().st_size > FILE_BYTES_MAX:
                    raise ModelRefused(f"{path} has {path.stat().st_size} bytes: {FILE_BYTES_MAX} are the most")
                return path.read_bytes()
        except OSError as error:
            raise ModelRefused(f"{path} cannot be read: {error.strerror}") from None
    return b""
