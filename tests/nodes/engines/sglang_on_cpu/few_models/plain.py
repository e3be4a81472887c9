"""For tests only: the models that tests serve."""

from importlib import import_module
from typing import Any

_llama: Any = import_module("sglang.srt.models.llama")
_qwen: Any = import_module("sglang.srt.models.qwen3")
EntryClass = [_llama.LlamaForCausalLM, _qwen.Qwen3ForCausalLM]
