"""Shell. Torch and the transformers library, loaded when they are first used: they are large, and may not be there."""

from importlib import import_module
from typing import Any


class Later:
    """A module, from its first use on."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


SPARE = ("pooler.", "vision_tower.head.", ".post_layernorm.")  # parts of names of what comes after what is used


def complete(found: tuple[Any, dict[str, Any]]) -> Any:
    """The model of `from_pretrained(..., output_loading_info=True)`. Raises ValueError if files lack some weights.

    The library would go on with random ones.
    """
    model, told = found
    missing = sorted(name for name in told.get("missing_keys", ()) if not any(part in name for part in SPARE))
    if missing:
        raise ValueError(f"the weights lack {len(missing)} tensors, as {missing[0]}")
    return model


torch: Any = Later("torch")
library: Any = Later("transformers")
