"""A mesh that serves, of real processes, and what its simulated workers must say.

Each token that a simulated worker says here is one printable character, so a text is checked token for token.
"""

import asyncio
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.engines.sim import continuation
from nodes.frontend.scrape import SILENT
from nodes.loading import spoken
from nodes.text.template import ChatTemplate
from tests.nodes.test_loading import model_folder
from tests.nodes.text.tiny import byte_level
from tests.real.processes import PATIENCE_S, Child
from tests.real.raw_http import HOST, ask

MODEL = "org/tiny"
AT_ONCE = ("--speedup", 0)
PACED = ("--decode-ms", "0:5", "--prefill-ms", "0:2")
POLL_S = 0.05  # a scrape costs a frontend 10 ms
SCRAPE_AGAIN_S = 3.0  # more than it takes until a node that is frozen gets no requests
NOTHING = "\0"  # no line has it


# --- Processes ---------------------------------------------------------------------------------------------


class Serving:
    """Processes of one mesh."""

    def __init__(self, stack: ExitStack, folder: Path, runtime: str) -> None:
        self.folder = folder
        self.model = model_folder(folder / "tiny")
        self.join = f"dir:{runtime}"
        self.apart = False  # each process is on a host of its own, as far as it can tell: no sockets in a directory
        self._stack = stack

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Processes that are started within it end with it, not with the mesh."""
        outer, self._stack = self._stack, ExitStack()
        try:
            with self._stack:
                yield
        finally:
            self._stack = outer

    def start(self, command: str, *words: object) -> Child:
        """One process."""
        own = (
            {"XDG_RUNTIME_DIR": tempfile.mkdtemp(prefix="wm", dir=os.environ["XDG_RUNTIME_DIR"])} if self.apart else {}
        )
        child = Child("-m", "launch.cli", command, "--join", self.join, *words, environment=own)
        return self._stack.enter_context(child)

    def worker(self, name: str, *words: object, serves: str = MODEL) -> Child:
        """A simulated worker, not waited for."""
        model = ("--engine", "sim", "--model", self.model, "--name-as", serves)
        return self.start("worker", "--name", name, *model, *words)

    def frontend(self, *words: object, port: int = 0) -> "Frontend":
        """A frontend that listens."""
        return Frontend(self.start("frontend", "--port", port, "--log-format", "json", *words))


class Frontend:
    """A frontend and its address."""

    def __init__(self, child: Child) -> None:
        found = re.search(r"https?://127\.0\.0\.1:(\d+)", child.line("frontend is ready"))
        assert found is not None
        self.child = child
        self.port = int(found.group(1))

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    def lines(self) -> list[dict[str, Any]]:
        """What it has told of the requests that are over. A frontend whose lines nobody reads stands still."""
        with suppress(AssertionError):
            self.child.line(NOTHING, timeout_s=0.0)
        lines = [json.loads(line) for line in self.child.text.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("logger") == "wiremesh.request"]

    def line(self, request: str) -> dict[str, Any]:
        """What it tells of one request, by the name that the client gave it."""
        self.child.line(f'"client_id":"{request}"')
        return next(line for line in self.lines() if line.get("client_id") == request)


@contextmanager
def environment() -> Iterator[str]:
    """A private runtime directory, short enough for sockets, and no settings from outside."""
    path = tempfile.mkdtemp(prefix="wm")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("WIREMESH_", "SLURM_", "OPENAI_")):
                patch.delenv(name)
        patch.setenv("XDG_RUNTIME_DIR", path)
        patch.setenv("XDG_CONFIG_HOME", path)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)  # a node that dies may just be writing there


@contextmanager
def mesh(folder: Path) -> Iterator[Serving]:
    """A mesh of its own."""
    with environment() as runtime, ExitStack() as stack:
        yield Serving(stack, folder, runtime)


def ready(*children: Child) -> None:
    """Wait until all of them are."""
    for child in children:
        child.line("is ready: node")


def node_of(child: Child) -> str:
    """The id of a node, 16 hexadecimal digits."""
    found = re.search(r"is ready: node ([0-9a-f]{16})", child.line("is ready: node"))
    assert found is not None
    return found.group(1)


async def served(front: Frontend, count: int, model: str = MODEL) -> None:
    """Wait until a frontend would send a model's requests to so many workers."""
    node = node_of(front.child)
    await eventually(lambda: models(front.port), lambda found: model in found or not count)
    name = "wiremesh_frontend_workers"
    await eventually(lambda: metric(front.port, name, node=node, model=model), lambda found: found == count)


async def models(port: int) -> list[str]:
    """The models whose requests would be served."""
    found: list[str] = (await ask(port, "/health", method="GET")).json["models"]
    return found


async def metric(port: int, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels, over all nodes; 0 without any."""
    lines = await scraped(port, labels.get("node", ""))
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    found = [line for line in lines if line.startswith((name + "{", name + " "))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found if all(one in line for one in wanted))


async def scraped(port: int, node: str = "") -> list[str]:
    """What all nodes count, or at least this one. On a busy machine one may be too late for a scrape: then all are
    asked again. One that is frozen is done without."""
    end = time.monotonic() + SCRAPE_AGAIN_S
    while True:
        lines = (await ask(port, "/metrics", method="GET")).body.decode().splitlines()
        nobody_silent = any(line.startswith(SILENT + "{") and line.endswith(" 0.0") for line in lines)
        if nobody_silent or (node and any(f'node="{node}"' in line for line in lines)) or time.monotonic() > end:
            return lines


async def advised(front: Frontend, requests: int, look: Callable[[], Awaitable[Any]]) -> Any:
    """What is seen when routers were asked for so many requests and answered all of them in time. On a busy machine
    one may be late: then the frontend does without for a second, which is not what is looked at."""
    end = time.monotonic() + PATIENCE_S
    while True:
        before = await answered(front)
        found = await look()
        after = await answered(front)
        if (after[0] - before[0] >= requests and after[1] == before[1]) or time.monotonic() > end:
            return found


async def answered(front: Frontend) -> tuple[float, float]:
    """For how many requests this frontend has asked a router, and how often the answer was late."""
    count = partial(metric, front.port, "wiremesh_node_events_total", node=node_of(front.child))
    return await count(event="requests.routed"), await count(event="requests.router_late")


async def eventually(look: Callable[[], Any], right: Callable[[Any], bool]) -> Any:
    """Look until what is seen is right."""
    end = time.monotonic() + PATIENCE_S
    while not right(found := await look()):
        assert time.monotonic() < end, found
        await asyncio.sleep(POLL_S)
    return found


# --- What must be said -------------------------------------------------------------------------------------


@cache
def span() -> tuple[int, int]:
    """The first and the last token that simulated workers say."""
    first, last = spoken(byte_level())
    assert all(len(byte_level().decode([token])) == 1 for token in range(first, last + 1))
    return first, last


def chat_tokens(text: str) -> list[int]:
    """The prompt of a chat of one message."""
    tokenizer = byte_level()
    rendered = ChatTemplate(tokenizer.template, tokenizer.specials).render([{"role": "user", "content": text}])
    return tokenizer.encode(rendered, add_special=False)


def says(prompt: Sequence[int] | str, count: int) -> str:
    """What a simulated worker says to these tokens, or in a chat to this message."""
    tokens = chat_tokens(prompt) if isinstance(prompt, str) else list(prompt)
    return byte_level().decode(continuation(tokens, count, span()))


def chat(text: str = "hello world", tokens: int = 40, **more: Any) -> dict[str, Any]:
    """A chat of one message."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, **more}


def random_model(path: Path, seed: int = 7) -> Path:
    """A directory with weights that mean nothing, of the tiny tokenizer's size: a real computation, in no time."""
    model_folder(path)
    width, inner, layers, vocabulary = 64, 96, 2, byte_level().vocabulary
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": [1, 2],
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": ()}
    for layer in range(layers):
        parts = {
            **{f"self_attn.{name}_proj": (rows, width) for name, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64))},
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
            "input_layernorm": (),
            "post_attention_layernorm": (),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in parts.items()}
    draw = np.random.default_rng(seed)
    tensors = {
        name: draw.normal(0, 1.5 / shape[-1] ** 0.5, shape).astype("<f4") if shape else np.ones(width, "<f4")
        for name, shape in shapes.items()
    }
    header, content = {}, b""
    for name, tensor in tensors.items():
        place = [len(content), len(content) + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": place}
        content += tensor.tobytes()
    head = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + content)
    (path / "config.json").write_text(json.dumps(config))
    return path
