"""Shell. Tensors from safetensors files, one or sharded, as float32.

A file is the length of its header (8 bytes), the header (JSON: name to type, shape and range), and the bytes. It is
mapped, not read, and everything that the header claims is checked before it is believed.
"""

import json
import mmap
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.engines.numpy.config import canonical

Floats = NDArray[np.float32]
HEADER_BYTES_MAX = 100_000_000
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class Damaged(Exception):
    """A file is not what it claims to be; the text names it."""


class Tensors:
    """All tensors of some files, by their canonical names."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: dict[Path, mmap.mmap] = {}
        self._places: dict[str, tuple[Path, dict[str, Any], int]] = {}
        for path in paths:
            if not path.exists() or not path.stat().st_size:
                raise Damaged(f"{path} is missing or empty")
            with path.open("rb") as file:
                self._files[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            header, start = header_of(path, self._files[path])
            for name, entry in header.items():
                if name != "__metadata__":
                    self._places[canonical(name)] = (path, entry, start)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def names(self) -> list[str]:
        return [*self._places]

    def __getitem__(self, name: str) -> Floats:
        """A copy, in float32."""
        if name not in self._places:
            raise Damaged(f"the weights have no tensor {name}")
        path, entry, start = self._places[name]
        kind, shape, first, last = checked(path, name, entry, len(self._files[path]) - start)
        raw = np.frombuffer(self._files[path], np.uint8, last - first, start + first)
        return floats(raw, kind).reshape(shape)

    def get(self, name: str) -> Floats | None:
        return self[name] if name in self._places else None

    def close(self) -> None:
        for file in self._files.values():
            file.close()


@contextmanager
def opened(folder: Path) -> Iterator[Tensors]:
    """The tensors of a model's directory."""
    tensors = Tensors(shards(folder))
    try:
        yield tensors
    finally:
        tensors.close()


def shards(folder: Path) -> list[Path]:
    """The files of the index, or the only one."""
    listed = folder / "model.safetensors.index.json"
    if not listed.exists():
        return [folder / "model.safetensors"]
    names = sorted(set(json.loads(listed.read_text())["weight_map"].values()))
    if any(Path(name).name != name for name in names):
        raise Damaged(f"{listed} names files elsewhere")
    return [folder / name for name in names]


def header_of(path: Path, data: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The header, and where the bytes begin."""
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else HEADER_BYTES_MAX
    if length > min(HEADER_BYTES_MAX, len(data) - 8):
        raise Damaged(f"{path} is no safetensors file, or cut off")
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError as error:
        raise Damaged(f"the header of {path} is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise Damaged(f"the header of {path} is no object")
    return header, 8 + length


def checked(path: Path, name: str, entry: dict[str, Any], size: int) -> tuple[str, list[int], int, int]:
    try:
        kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        fits = 0 <= first <= last <= size and last - first == prod(map(index, shape)) * ITEM_BYTES.get(kind, 0)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{path}: {name} is not described") from error
    if kind not in ITEM_BYTES:
        raise Damaged(f"{path}: {name} is {kind}, not one of {', '.join(ITEM_BYTES)}")
    if not fits:
        raise Damaged(f"{path}: {name} lies outside the file, or its size is not that of its shape")
    return kind, shape, first, last


def floats(raw: NDArray[np.uint8], kind: str) -> Floats:
    if kind == "F32":
        return raw.view("<f4").astype(np.float32)
    if kind == "F16":
        return raw.view("<f2").astype(np.float32)
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)  # bfloat16 is the upper half of a float32
