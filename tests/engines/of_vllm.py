"""vLLM for the conformance suite, as it runs on any CPU: in float32, with one thread, in a cache of a known size."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nodes.contract.engine import Card
from nodes.engine_options import EngineOptions
from nodes.engines.outside import OutsideEngine
from nodes.engines.vllm.source import VllmSource
from nodes.folder import ModelRefused, contents_of, folder_of
from nodes.text.tokenizer import ModelFiles, Tokenizer
from tests.engines.reference import CONTEXT

# Blocks of 32 are what its CPU kernels are made for.
WORDS = f"--dtype float32 --enforce-eager --max-model-len {CONTEXT} --block-size 32"


class Quiet(VllmSource):
    """Our tests take warnings for errors, and packages that vLLM imports have some."""

    def start(self) -> Card:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return super().start()

    async def stop(self) -> None:
        core = self._engine and self._engine.engine_core
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            await super().stop()
            if core:
                await asyncio.sleep(0)  # in which it closes its sockets
                core.ctx._shadow_obj.destroy(0)  # which vLLM leaves to the garbage collection
            gc.collect()


def vllm(folder: Path, slots: int, cache_bytes: int, caching: bool, *words: str, role: str = "worker") -> OutsideEngine:
    """One that was not started."""
    os.environ.update(VLLM_CPU_OMP_THREADS_BIND="nobind", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    native = (*WORDS.split(), "--kv-cache-memory-bytes", str(cache_bytes), *words)
    options = EngineOptions(str(folder), engine="vllm", slots=slots, caching=caching, native=native, role=role)
    try:
        tokenizer = Tokenizer(ModelFiles(**contents_of(folder)))
        eos, vocabulary = tuple(tokenizer.eos_tokens), tokenizer.vocabulary
    except ModelRefused:
        eos, vocabulary = (), 2**31 - 1
    return OutsideEngine(Quiet(folder, options, eos, vocabulary))


OFFLINE = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.inputs import tokens_input

given = json.load(sys.stdin)
engine = LLM(given["model"], dtype="float32", enforce_eager=True, max_model_len=given["context"], block_size=32,
             kv_cache_memory_bytes=64 << 20, skip_tokenizer_init=True)
wanted = SamplingParams(temperature=0.0, max_tokens=given["count"], ignore_eos=True, detokenize=False)
found = engine.generate([tokens_input(prompt) for prompt in given["prompts"]], wanted, use_tqdm=False)
print("found", json.dumps([[*one.outputs[0].token_ids] for one in found]))
"""
OFFLINE_S = 300.0


def offline(folder: Path, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """By its own `LLM.generate`, all at once, in a process that knows nothing of us."""
    told = {"model": str(folder), "prompts": [[*prompt] for prompt in prompts], "count": count, "context": CONTEXT}
    alone = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    run = [sys.executable, "-c", OFFLINE]
    said = subprocess.run(
        run, input=json.dumps(told), env={**os.environ, **alone}, capture_output=True, text=True, timeout=OFFLINE_S
    )
    assert said.returncode == 0, said.stderr
    tokens: list[list[int]] = json.loads(said.stdout.rpartition("found ")[2])
    return tokens


def kill_core(engine: Any) -> None:
    """Its process, from outside."""
    for process in engine._source._guard.processes:
        name = Path(f"/proc/{process}/comm")
        if name.is_file() and "Engine" in name.read_text():
            os.kill(process, signal.SIGKILL)


def adapter(folder: Path, seed: int) -> Path:
    """A LoRA of the demo model that changes what it says."""
    from safetensors.numpy import save_file

    config = json.loads((folder_of("demo") / "config.json").read_text())
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    inner = config["num_attention_heads"] * config["head_dim"]
    draw, tensors = np.random.default_rng(seed), {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora"
        tensors[f"{name}_A.weight"] = draw.normal(0, 0.3, (4, width)).astype("f4")
        tensors[f"{name}_B.weight"] = draw.normal(0, 0.3, (inner, 4)).astype("f4")
    folder.mkdir()
    told = {"peft_type": "LORA", "r": 4, "lora_alpha": 64, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
