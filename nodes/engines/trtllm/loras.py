"""Shell. LoRA adapters of a TensorRT-LLM worker: `-- --lora-modules NAME=PATH`, once for each.

What is known of its API is the parameter of a request, and the two arguments of LLM. Where its classes are, and what
they take, is assumed (as in its examples) and compared with the package wherever that is installed. Blocks of its cache
do not tell of which adapter they are: routers take them for the model's own, which costs a guess, no more.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from nodes.engines.outside import EngineRefused
from nodes.engines.trtllm.library import part

WORDS = ("lora_modules", "lora-modules")
RANK = 8  # where an adapter's file does not say: PEFT's own
REQUESTS = ("executor", "executor.request", "llmapi")  # modules that may have LoRARequest
CONFIGS = ("lora_helper", "lora_manager", "llmapi")  # likewise LoraConfig


class Loras:
    """Adapters by name: where each lies, and what the engine calls it."""

    def __init__(self) -> None:
        self.paths: dict[str, str] = {}
        self._requests: dict[str, Any] = {}

    def taken(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """Take the words that are about adapters; the others come back. Raises EngineRefused."""
        rest, waiting = [], list(words)
        while waiting:
            word = waiting.pop(0)
            name, equals, text = word.removeprefix("--").partition("=")
            if not word.startswith("--") or name not in WORDS:
                rest.append(word)
                continue
            modules = [text] if equals else []
            while not equals and waiting and not waiting[0].startswith("--"):
                modules.append(waiting.pop(0))
            for module in modules or [""]:
                self._add(module)
        return tuple(rest)

    def _add(self, module: str) -> None:
        """A path that is none would harm the engine when it is asked for, so it is looked at now."""
        name, _, path = module.partition("=")
        if not name or not path:
            raise EngineRefused(f"--lora-modules has {module!r}: it must be NAME=PATH")
        if not (Path(path) / "adapter_config.json").is_file():
            raise EngineRefused(f"--lora-modules has {module!r}: there is no adapter_config.json in {path}")
        self.paths[name] = path

    def arguments(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """What LLM is told of them, unless somebody has told it."""
        if not self.paths:
            return {}
        given = {
            "lora_dir": list(self.paths.values()),
            "max_lora_rank": max(map(_rank, self.paths.values())),
            "max_loras": len(self.paths),
            "max_cpu_loras": len(self.paths),
        }
        said = found.get("lora_config") or {}
        if not isinstance(said, Mapping):
            return {"enable_lora": True}
        return {"enable_lora": True, "lora_config": _class("LoraConfig", CONFIGS)(**{**given, **said})}

    def request(self, name: str) -> Any:
        """What a request names an adapter by: its number is the same as long as the process lives."""
        if name not in self._requests:
            number = list(self.paths).index(name) + 1
            self._requests[name] = _class("LoRARequest", REQUESTS)(name, number, self.paths[name])
        return self._requests[name]


def _class(name: str, places: tuple[str, ...]) -> Any:
    """Wherever a version has it. Raises EngineRefused."""
    for place in places:
        try:
            return getattr(part(place), name)
        except (ImportError, AttributeError):
            continue
    raise EngineRefused(f"this version of TensorRT-LLM has no {name} where it is looked for: leave out --lora-modules")


def _rank(path: str) -> int:
    """Of an adapter, as its file says."""
    try:
        found = msgspec.json.decode((Path(path) / "adapter_config.json").read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise EngineRefused(f"the adapter_config.json in {path} cannot be read: {error}") from None
    rank = found.get("r") if isinstance(found, dict) else None
    return rank if isinstance(rank, int) and rank > 0 else RANK
