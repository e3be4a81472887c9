"""Shell. A model's directory: where it is, and the files of it that travel through the mesh."""

import mmap
from pathlib import Path

from mesh.options import OptionRefused
from nodes.names import MODEL_CHARS_MAX, is_model
from proto.limits import MIB

DEMO = "demo"  # the name of the model that comes with Wiremesh
GGUF = ".gguf"  # the end of a name of a model in one file; its directory is the model's
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
    if folder.suffix == GGUF and folder.is_file():
        return folder.parent
    if not folder.is_dir():
        what = "no directory" if folder.exists() else "not there"
        raise ModelRefused(f"--model {model!r} is {what}: it must be {DEMO!r} or a model's directory")
    return folder


def name_of(model: str, name_as: str) -> str:
    """The name by which a model is served: the directory's, unless another was given."""
    named = Path(model).stem if model.endswith(GGUF) else folder_of(model).resolve().name
    name = name_as or (DEMO if model == DEMO else named)
    if not is_model(name):
        raise ModelRefused(f"{name!r} is no model name: --name-as takes {MODEL_CHARS_MAX} characters and no spaces")
    return name


def file_of(model: str, folder: Path) -> Path:
    """A model's one file: the one that was named, or the only one in its directory; of one in parts the first."""
    if model.endswith(GGUF):
        return Path(model).expanduser()
    found = sorted(folder.glob(f"*{GGUF}"))
    first = [file for file in found if "-of-" not in file.stem or "-00001-of-" in file.stem]
    if len(first) != 1:
        what = f"several models, as {first[0].name} and {first[1].name}" if first else "no GGUF file"
        raise ModelRefused(f"{folder} has {what}: name one, as in --model {folder}/NAME{GGUF}")
    return first[0]


def contents_of(folder: Path, model: str = "") -> dict[str, bytes]:
    """The fields of `nodes.text.tokenizer.ModelFiles`; a file that is not there is empty.

    Where there is no tokenizer.json, the GGUF file that `model` names, or is the only one, is asked.
    """
    from nodes.text.tokenizer import NAMES  # It loads the tokenizers library, which only a worker needs.

    found = {field: _read(folder, names) for field, names in NAMES.items()}
    if not found["tokenizer"] and next(folder.glob(f"*{GGUF}"), None) is not None:
        return _told(file_of(model, folder))
    if not found["tokenizer"]:
        raise ModelRefused(f"{folder} has no tokenizer.json: no model can be served without its tokenizer")
    return found


def _told(file: Path) -> dict[str, bytes]:
    """What a GGUF file says itself."""
    from nodes.text.gguf import files_of, read

    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return files_of(read(content))
    except (OSError, ValueError) as error:
        text = f"{file} does not say how texts become tokens here: {error}"
        raise ModelRefused(f"{text}. Put the model's tokenizer.json beside it") from None


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
