"""Shell. Torch and the transformers library, loaded when they are first used: they are large, and may not be there."""

from importlib import import_module
from typing import Any


class Later:
    """A module, from its first use on."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


torch: Any = Later("torch")
library: Any = Later("transformers")
