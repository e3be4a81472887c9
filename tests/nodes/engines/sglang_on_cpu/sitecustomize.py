"""For tests only: what SGLang needs besides, where there is no GPU. Python imports this by itself from PYTHONPATH.

The torchvision of PyPI wants operators of its CUDA half before it can be imported beside a torch for CPUs; SGLang's
NIXL backend says that its cache is in a GPU's memory, and here it is in the host's; its LoRAs want memory that is
pinned, and here there is none. Its deterministic mode is for backends of GPUs: here it draws as there, with PyTorch for
the hash that it draws by, but its sums are those of PyTorch, which may depend on what is computed beside.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from types import ModuleType
from typing import Any


def _operators(spec: ModuleSpec) -> None:
    """Before torchvision: declare what only its CUDA half would. (The one that PyTorch builds for CPUs has it all.)"""
    if version("torchvision").endswith("+cpu"):
        return
    import torch  # type: ignore[import-not-found,unused-ignore]

    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_GATED = (
    "fused_sigmoid_mul_cpu",
    "fused_qk_gemma_rmsnorm_cpu",
    "fused_qk_gemma_rmsnorm_with_gate_cpu",
    "fused_qkvzba_split_reshape_cat_contiguous_cpu",
    "fused_sigmoid_gating_delta_rule_update_cpu",
)


def _gated(spec: ModuleSpec) -> None:
    """Before a model that nobody serves here, and that those which see import: it names kernels for CPUs."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    for name in _GATED:
        torch.library.define(f"sgl_kernel::{name}", "(Tensor x) -> Tensor")


def _in_host_memory(spec: ModuleSpec) -> None:
    """After NIXL's module: what is said to be a GPU's memory is the host's."""
    loader: Any = spec.loader
    load = loader.exec_module

    def loaded(module: ModuleType) -> None:
        load(module)
        agent: Any = module.nixl_agent
        begin = agent.__init__

        def begun(self: Any, *arguments: Any, **more: Any) -> None:
            begin(self, *arguments, **more)
            self.nixl_mems["VRAM"] = self.nixl_mems["DRAM"]

        agent.__init__ = begun

    loader.exec_module = loaded


class _Unpinned:
    """PyTorch, but for memory that is pinned for a GPU."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def tensor(self, *arguments: Any, pin_memory: bool = False, **more: Any) -> Any:
        return self._torch.tensor(*arguments, **more)

    def zeros(self, *arguments: Any, pin_memory: bool = False, **more: Any) -> Any:
        return self._torch.zeros(*arguments, **more)


def _unpinned(spec: ModuleSpec) -> None:
    """After modules of LoRA: without a GPU there is nothing to pin memory for."""
    loader: Any = spec.loader
    load = loader.exec_module

    def loaded(module: ModuleType) -> None:
        load(module)
        torch: Any = module.torch
        torch.Tensor.pin_memory = lambda tensor, *_: tensor
        module.torch = _Unpinned(torch)

    loader.exec_module = loaded


def _after(change: Callable[[Any], None]) -> Callable[[ModuleSpec], None]:
    """Once the module is loaded."""

    def changed(spec: ModuleSpec) -> None:
        loader: Any = spec.loader
        load = loader.exec_module

        def loaded(module: ModuleType) -> None:
            load(module)
            change(module)

        loader.exec_module = loaded

    return changed


def _deterministic(choices: Any) -> None:
    """PyTorch's attention may be asked for in deterministic mode."""
    choices.add_deterministic_attention_backend_choices(["torch_native"])
    choices.add_radix_supported_deterministic_attention_backend_choices(["torch_native"])


def _few_processors(processors: Any) -> None:
    """Of all models that see it imports those of Qwen alone, as `few_seers` has them: the rest takes half a minute."""
    everything = processors.import_processors

    def imported(package: str, overwrite: bool = False) -> None:
        if os.environ.get("SGLANG_EXTERNAL_MODEL_PACKAGE") != "few_seers":
            everything(package, overwrite)
        else:
            found = import_module(f"{package}.qwen_vl").QwenVLImageProcessor
            processors.PROCESSOR_MAPPING.update(dict.fromkeys(found.models, found))

    processors.import_processors = imported


def _own_sums(operators: Any) -> None:
    """Its own are kernels for GPUs."""
    operators.enable_batch_invariant_mode = lambda *_, **__: None


def _hash(module: Any) -> None:
    """What a kernel of `sgl_kernel` does on a CPU: the MurmurHash that this module has for GPUs, number for number."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    word = 0xFFFFFFFF

    def mixed(found: Any, key: Any) -> Any:
        key = key * 0xCC9E2D51 & word
        key = (key << 15 | key >> 17) & word
        found = found ^ (key * 0x1B873593 & word)
        return ((found << 13 | found >> 19) & word) * 5 + 0xE6546B64 & word

    def hashed(seed: Any, positions: Any, columns: Any) -> Any:
        seed, found = seed.to(torch.int64), torch.zeros((), dtype=torch.int64)
        for key in (seed & word, seed >> 32 & word, positions.to(torch.int64) & word):
            found = mixed(found, key)
        found = mixed(found[:, None], columns.to(torch.int64)[None, :] & word) ^ 16
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            found = (found ^ found >> shift) * factor & word
        return found.to(torch.uint32)

    kernels = module.kernels = torch.library.Library("sgl_kernel", "FRAGMENT")  # as long as the module lives
    kernels.define("murmur_hash32_cpu(Tensor seed, Tensor positions, Tensor columns) -> Tensor")
    kernels.impl("murmur_hash32_cpu", hashed, "CPU")


_CHANGES: dict[str, Callable[[ModuleSpec], None]] = {
    "torchvision": _operators,
    "sglang.srt.models.qwen3_5": _gated,
    "sglang.srt.managers.multimodal_processor": _after(_few_processors),
    "sglang.srt.lora.layers": _unpinned,
    "sglang.srt.lora.backend.torch_backend": _unpinned,
    "sglang.srt.arg_groups.choices": _after(_deterministic),
    "sglang.srt.batch_invariant_ops.batch_invariant_ops": _after(_own_sums),
    "sglang.kernels.ops.sampling.murmur_hash": _after(_hash),
    "nixl_cu12._api": _in_host_memory,
    "nixl_cu13._api": _in_host_memory,
}


class _Changed:
    """Finds these modules as they are, and changes them."""

    def find_spec(self, name: str, path: Any = None, target: object = None) -> ModuleSpec | None:
        change = _CHANGES.pop(name, None)
        spec = PathFinder.find_spec(name, path) if change is not None else None
        if spec is not None and change is not None:
            change(spec)
        return spec


sys.meta_path.insert(0, _Changed())  # type: ignore[arg-type]
