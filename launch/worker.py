"""Shell. `wiremesh worker`: serve a model on the mesh."""

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

from launch.codes import Exit
from launch.flags_worker import WorkerFlags
from mesh.options import Options, collect, options_of
from nodes.folder import folder_of, name_of, size_of

LIBRARIES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
STILL_S = 2.0  # how often a load that takes long says so


def main(arguments: argparse.Namespace) -> int:
    """Serve until told to leave; returns the exit code."""
    options = options_of(arguments, os.environ)
    flags = collect(WorkerFlags, given(arguments), os.environ, "worker")
    folder, name = folder_of(flags.model), name_of(flags.model, flags.name_as)
    _set_threads(flags.threads)
    return _serve(options, flags, folder, name)


def given(arguments: argparse.Namespace) -> dict[str, object]:
    """The flags, and what stands after `--`, which is for the engine."""
    found = dict(vars(arguments))
    words = found.pop("native_words", [])
    if words:
        found["native"] = [*found.get("native", []), *words]
    return found


def _set_threads(threads: int) -> None:
    """BLAS reads this when numpy is imported. More threads than one only help large models on idle machines."""
    for library in LIBRARIES:
        if threads:
            os.environ[library] = str(threads)
        else:
            os.environ.setdefault(library, "1")


def _serve(options: Options, flags: WorkerFlags, folder: Path, name: str) -> int:
    if flags.role == "encoder":
        return _encode(options, flags, folder, name)
    if flags.diffusion:
        return _imagine(options, flags, folder, name)
    with _progress(f"{name} from {folder} ({_megabytes(folder)}) for the {flags.engine} engine", flags.start_s or inf):
        from nodes import serving, worker  # Only now: this line is shown before anything slow happens.
        from nodes.loading import load

        loaded = load(flags)
    return serving.run(options, lambda: worker.run(options, loaded, flags, flags.queue))


def _encode(options: Options, flags: WorkerFlags, folder: Path, name: str) -> int:
    with _progress(f"the eyes and ears of {name} from {folder}"):
        from nodes import encoding, serving  # As above.

        senses = encoding.load(flags)
    return serving.run(options, lambda: encoding.run(options, senses, flags, flags.queue))


def _imagine(options: Options, flags: WorkerFlags, folder: Path, name: str) -> int:
    with _progress(f"{name} from {folder}, which makes {flags.diffusion}s", flags.start_s or inf):
        from nodes import serving  # As above.
        from nodes.diffusion import worker

        studio = worker.load(flags)
    return serving.run(options, lambda: worker.run(options, studio, flags, flags.queue))


@contextmanager
def _progress(what: str, patience_s: float = inf) -> Iterator[None]:
    """Say that something is being loaded, and go on saying so; until patience ends, and with it this process."""
    print(f"loading: {what}", flush=True)
    began, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(STILL_S):
            took_s = time.monotonic() - began
            print(f"loading: {took_s:.0f} s so far", flush=True)
            if took_s > patience_s:
                _give_up(patience_s)

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    print(f"loading: done in {time.monotonic() - began:.2f} s", flush=True)


def _give_up(patience_s: float) -> None:
    """The main thread hangs somewhere inside an engine: nobody else can end this. A guard ends what it has started."""
    text = (
        f"the engine has not started within {patience_s:.0f} s: what it said above may tell why; --start-s waits longer"
    )
    print(f"wiremesh: {text}", file=sys.stderr, flush=True)
    os._exit(Exit.INTERNAL)


def _megabytes(folder: Path) -> str:
    return f"{size_of(folder) / 1e6:.1f} MB"
