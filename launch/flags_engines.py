"""Pure. The flags of `wiremesh engines`."""

from msgspec import Struct

from launch.engine_table import NAMES

VENV = "~/.cache/wiremesh/engines"


class EnginesFlags(Struct, frozen=True):
    """What `wiremesh engines` can be told."""

    json: bool = False
    run: bool = False
    venv: str = ""
    torch: str = ""
    extra: str = ""


ENGINES_HELP = {
    "json": "print one JSON object for each engine",
    "run": "install: run the commands instead of printing them",
    "venv": f"install: the virtual environment, which is made if it is not there (default: {VENV}/NAME)",
    "torch": "install: what pip is told to install as torch, as in 'torch==2.13.0' (default: what fits this machine)",
    "extra": "install: an extra of wiremesh besides, as in test (default: none)",
}
ENGINES_WORDS_HELP = f"'install' and one of {', '.join(NAMES[3:])}; without words: list what there is"
ENGINES_EPILOG = f"""\
Engines pin what they are built with, so each may live in a virtual environment
of its own, beside {VENV}. Its workers are started from there, as in

  {VENV}/vllm/bin/wiremesh worker --engine vllm --model DIR

and find the rest of the mesh wherever that was started.
"""
