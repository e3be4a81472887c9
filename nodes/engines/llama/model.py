"""Shell. A model in a GGUF file and llama.cpp's memory of keys and values, one batch at a time."""

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from nodes.engines.llama.lanes import SCRATCH, Move
from nodes.engines.llama.library import complaint, library
from nodes.engines.numpy.config import Unsupported

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]
UBATCH_MAX = 512  # what llama.cpp computes at once; a larger batch it cuts
CORES_WHOLE_MAX = 4  # of more, half are usually the second threads of the others, which only get in the way
ITEM_BYTES = {"float32": 4, "float16": 2}
WEIGHTS_FLOAT32 = 0  # llama.cpp's name for a file that was not quantized
META_BYTES = 256


class Shape(Struct, frozen=True):
    """What is to be known of a model before there is memory for it."""

    vocabulary: int
    context: int
    token_bytes: int  # keys and values of one position
    heads: int  # of keys
    ends: tuple[int, ...]  # tokens that end a sequence, as the file says
    whole: bool  # every position of a sequence stays in the cache: prefixes can be shared, and handed over
    dtype: str  # of the cache


class LlamaModel:
    """Weights, and memory when it was allocated."""

    def __init__(self, file: Path, dtype: str, settings: Mapping[str, float]) -> None:
        self._library: Any = library()
        self._settings = settings
        self._context: Any = None
        wanted = _with(self._library.llama_model_default_params(), settings)
        complaint()  # of something else
        self._model = self._library.llama_model_load_from_file(os.fsencode(file), wanted)
        if not self._model:
            raise Unsupported(f"llama.cpp cannot load {file}: {complaint()}")
        self.shape = self._shape(dtype)

    def _shape(self, dtype: str) -> Shape:
        known, model = self._library, self._model
        vocabulary = known.llama_model_get_vocab(model)
        count = known.llama_vocab_n_tokens(vocabulary)
        if dtype == "auto":
            dtype = "float32" if known.llama_model_ftype(model) == WEIGHTS_FLOAT32 else "float16"
        if known.llama_model_has_encoder(model) or not known.llama_model_has_decoder(model):
            raise Unsupported("it is no model that goes on from a prompt: it has an encoder, or no decoder")
        if self._meta("attention.causal") == "false":
            raise Unsupported("it makes embeddings, which this engine does not")
        heads = max(1, known.llama_model_n_head_kv(model))
        width = known.llama_model_n_embd(model) // max(1, known.llama_model_n_head(model))
        numbers = sum(int(self._meta(f"attention.{part}_length") or width) for part in ("key", "value"))
        recurrent = known.llama_model_is_recurrent(model) or known.llama_model_is_hybrid(model)
        return Shape(
            vocabulary=count,
            context=known.llama_model_n_ctx_train(model),
            token_bytes=max(1, known.llama_model_n_layer(model) * heads * numbers * ITEM_BYTES[dtype]),
            heads=heads,
            ends=tuple(token for token in range(count) if known.llama_vocab_is_eog(vocabulary, token)),
            whole=not recurrent and known.llama_model_n_swa(model) == 0,
            dtype=dtype,
        )

    @property
    def exact(self) -> bool:
        """Nothing in it is coarser than float32."""
        whole = self._library.llama_model_ftype(self._model) == WEIGHTS_FLOAT32
        return whole and self.shape.dtype == "float32" and "flash_attn_type" not in self._settings

    def _meta(self, name: str) -> str:
        """What the file says of its architecture under a name; empty if nothing."""
        buffer = ctypes.create_string_buffer(META_BYTES)

        def value(key: str) -> str:
            length = self._library.llama_model_meta_val_str(self._model, key.encode(), buffer, META_BYTES)
            return buffer.value.decode(errors="replace") if length >= 0 else ""

        return value(f"{value('general.architecture')}.{name}")

    def allocate(self, positions: int, lanes: int, batch: int) -> None:
        """Memory for so many positions, empty; for none, what there was goes back."""
        known = self._library
        if self._context:
            known.llama_free(self._context)
            self._context = None
        if not positions:
            return
        wanted = known.llama_context_default_params()
        wanted.n_ctx, wanted.n_seq_max, wanted.n_outputs_max = positions, lanes, lanes
        wanted.n_batch = max(batch, lanes)
        wanted.n_ubatch = min(wanted.n_batch, UBATCH_MAX)
        wanted.n_threads = wanted.n_threads_batch = threads()
        wanted.kv_unified, wanted.swa_full = True, True
        complaint()  # of something else
        number = known.GGML_TYPE_F32 if self.shape.dtype == "float32" else known.GGML_TYPE_F16
        wanted.type_k = wanted.type_v = number
        if self.shape.dtype == "float32":  # flash attention would read it as float16
            wanted.flash_attn_type = known.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = known.llama_init_from_model(self._model, _with(wanted, self._settings))
        if not self._context:
            raise Unsupported(f"llama.cpp has no memory for {positions} positions: {complaint()}")
        self._memory = known.llama_get_memory(self._context)
        self._batch = _Batch(known, wanted.n_batch)

    def move(self, moves: Sequence[Move]) -> None:
        """What the lanes name."""
        known = self._library
        for one in moves:
            if one.to < 0:
                known.llama_memory_seq_rm(self._memory, one.lane, one.start, one.stop)
            else:
                known.llama_memory_seq_cp(self._memory, one.lane, one.to, one.start, one.stop)

    def logits(self, tokens: Integers, positions: Integers, lanes: Integers, heads: Sequence[int]) -> Floats:
        """Compute rows of (token, position, lane), and give the logits of the rows `heads`."""
        known = self._library
        code = known.llama_decode(self._context, self._batch.of(tokens, positions, lanes, heads))
        if code:
            raise RuntimeError(f"llama.cpp could not compute a batch (code {code}): {complaint()}")
        if not len(heads):
            known.llama_synchronize(self._context)
            return np.zeros((0, self.shape.vocabulary), np.float32)
        found = known.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, (len(heads), self.shape.vocabulary)).copy()

    def state(self, lane: int, start: int, stop: int) -> bytes:
        """What llama.cpp says of some positions of a lane; see `states`."""
        known = self._library
        known.llama_memory_seq_cp(self._memory, lane, SCRATCH, start, stop)
        size = known.llama_state_seq_get_size(self._context, SCRATCH)
        buffer = (ctypes.c_uint8 * size)()
        written = known.llama_state_seq_get_data(self._context, buffer, size, SCRATCH)
        known.llama_memory_seq_rm(self._memory, SCRATCH, -1, -1)
        return bytes(memoryview(buffer)[:written])

    def restore(self, lane: int, start: int, stop: int, state: bytes) -> None:
        """Positions that another said, or this one before, become those of a lane."""
        known = self._library
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if known.llama_state_seq_set_data(self._context, buffer, len(state), SCRATCH) != len(state):
            raise RuntimeError(f"llama.cpp did not take {stop - start} positions: {complaint()}")
        known.llama_memory_seq_cp(self._memory, SCRATCH, lane, start, stop)
        known.llama_memory_seq_rm(self._memory, SCRATCH, -1, -1)

    def close(self) -> None:
        """Free all; twice is once."""
        self.allocate(0, 0, 0)
        if self._model:
            self._library.llama_model_free(self._model)
            self._model = None


class _Batch:
    """llama.cpp's form of rows, over arrays that are there once."""

    def __init__(self, known: Any, rows: int) -> None:
        self._tokens, self._positions, self._lanes = (np.zeros(rows, np.int32) for _ in range(3))
        self._ones, self._heads = np.ones(rows, np.int32), np.zeros(rows, np.int8)
        each = self._lanes.ctypes.data + self._lanes.itemsize * np.arange(rows)
        self._pointers = each.astype(np.uintp)  # of each row: where its lane stands
        self._form = known.llama_batch()
        for name, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._ones),
            ("seq_id", self._pointers),
            ("logits", self._heads),
        ):
            kind = dict(known.llama_batch._fields_)[name]
            setattr(self._form, name, ctypes.cast(array.ctypes.data, kind))

    def of(self, tokens: Integers, positions: Integers, lanes: Integers, heads: Sequence[int]) -> Any:
        count = len(tokens)
        self._tokens[:count], self._positions[:count], self._lanes[:count] = tokens, positions, lanes
        self._heads[:count] = 0
        self._heads[list(heads)] = 1
        self._form.n_tokens = count
        return self._form


def threads() -> int:
    """How many compute, unless somebody says otherwise."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if cores <= CORES_WHOLE_MAX else cores // 2


def _with(wanted: Any, settings: Mapping[str, float]) -> Any:
    """Those settings that this structure has, in it."""
    for name, _ in wanted._fields_:
        if name in settings:
            setattr(wanted, name, settings[name])
    return wanted
