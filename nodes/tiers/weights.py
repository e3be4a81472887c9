"""Shell. A mark of a model's weights: a cache that outlives its worker must not meet another model's.

To read all of a large model twice would double the time that a worker needs to start. A model that was trained any
further differs nearly everywhere, so places all over each file are enough.
"""

from pathlib import Path

from xxhash import xxh3_128

ENDINGS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")  # of files that hold weights
FIRST_PART = "-00001-of-"  # in the name of a GGUF file that has more
PLACES = 256  # of each file
PLACE_BYTES = 4096


def mark_of(folder: Path, named: str = "") -> str:
    """Of all weights in a model's directory; they may be moved, but not be others. Of one file that is named, its own
    and those of its other parts: beside it there may be whole other models."""
    mark, begins = xxh3_128(), named.partition(FIRST_PART)[0]
    for path in sorted(path for path in folder.iterdir() if path.suffix in ENDINGS and path.name.startswith(begins)):
        size = path.stat().st_size
        mark.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for place in range(PLACES):
                file.seek(max(0, size - PLACE_BYTES) * place // (PLACES - 1))
                mark.update(file.read(PLACE_BYTES))
    return mark.hexdigest()
