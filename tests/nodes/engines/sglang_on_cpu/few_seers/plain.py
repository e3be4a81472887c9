"""For tests only: the models that tests of pictures serve."""

from importlib import import_module
from typing import Any

_llama: Any = import_module("sglang.srt.models.llama")
_llava: Any = import_module("sglang.srt.models.llava")
_qwen2: Any = import_module("sglang.srt.models.qwen2_vl")
_qwen25: Any = import_module("sglang.srt.models.qwen2_5_vl")
EntryClass = [
    _llama.LlamaForCausalLM,
    _llava.LlavaForConditionalGeneration,
    _qwen2.Qwen2VLForConditionalGeneration,
    _qwen25.Qwen2_5_VLForConditionalGeneration,
]
