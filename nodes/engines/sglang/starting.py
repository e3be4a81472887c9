"""Shell. Starts SGLang in this process with our flags and the user's, and takes back what it does to a process.

Its import sets an event loop policy, its start replaces log handlers, and it wants signal handlers of its own, of which
one kills the whole process. None of that may happen to a worker: it has its own loop, logs and end.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from msgspec import Struct

from nodes.engine_options import EngineOptions
from nodes.engines.outside import EngineRefused
from nodes.engines.sglang.library import library
from nodes.guiding.following import Guides

INSTALL = "pip install sglang, in a virtual environment of its own"
MODES = {"prefill": "prefill", "decode": "decode"}  # by role; else: alone
CHARS_MAX = 300  # of what it says when it cannot start
LOAD_STEPS = 5  # between two figures of its load; routers want them fresher than its own 15
LOGGED = "Why, that process has logged above"
QUIET = "sglang.srt.entrypoints.engine"  # says, as an error, that it does not use a signal handler of its own


class Sockets(Struct, frozen=True):
    """Where each rank of an engine publishes what happens to its cache."""

    stream: str
    replay: str


class Died:
    """Whether SGLang has told us, by a signal, that one of its processes failed."""

    said = False


def failed(signum: int = 0, frame: object = None) -> None:
    """A process of the engine failed: whoever asks next is told. (SGLang would kill us here.)"""
    Died.said = True


def flags_of(folder: Path, options: EngineOptions, sockets: Sequence[Sockets], bootstrap_port: int) -> list[str]:
    """Ours first: of a flag that comes twice, argparse takes the last."""
    found = [f"--model-path={folder}", "--skip-tokenizer-init", "--incremental-streaming-output", "--enable-metrics"]
    found += [f"--page-size={options.block_tokens}", "--log-level=warning"]
    found += [f"--load-snapshot-publish-interval={LOAD_STEPS}"]
    found += [f"--context-length={options.context}"] if options.context else []
    found += [f"--max-running-requests={options.slots}"] if options.slots else []
    found += [f"--chunked-prefill-size={options.step_tokens}"] if options.step_tokens else []
    found += [f"--device={options.device}"] if options.device else []
    found += [f"--dtype={options.dtype}"] if options.dtype else []
    found += [] if options.caching else ["--disable-radix-cache"]
    if options.caching:
        events = {"publisher": "zmq", "topic": "kv", "bind": True}
        events |= {"endpoint": sockets[0].stream, "replay_endpoint": sockets[0].replay}
        found += [f"--kv-events-config={json.dumps(events)}"]
    if not any(word.split("=")[0] == "--schedule-policy" for word in options.native):  # others know no priorities
        found += ["--enable-priority-scheduling", "--schedule-low-priority-values-first", "--default-priority-value=0"]
        found += ["--disable-priority-preemption"] if options.role == "decode" else []  # its retraction forbids it
    if options.role in MODES:
        found += [f"--disaggregation-mode={MODES[options.role]}", f"--disaggregation-bootstrap-port={bootstrap_port}"]
        found += ["--disaggregation-transfer-backend=nixl"]  # which `wiremesh engines install sglang` brings along
    return [*found, *options.native]


def sockets_of(ranks: int, folder: str) -> list[Sockets]:
    """One pair for each rank: paths in a folder of ours, or, where there are several, what SGLang makes of ports."""
    if ranks == 1:
        return [Sockets(f"ipc://{folder}/stream", f"ipc://{folder}/replay")]
    stream, replay = free_ports(ranks), free_ports(ranks)
    return [Sockets(f"tcp://127.0.0.1:{stream + rank}", f"tcp://127.0.0.1:{replay + rank}") for rank in range(ranks)]


def free_ports(count: int = 1) -> int:
    """The first of so many free ports, one after another."""
    while True:
        taken = [socket.socket() for _ in range(count)]
        try:
            taken[0].bind(("127.0.0.1", 0))
            first = int(taken[0].getsockname()[1])
            for offset, one in enumerate(taken[1:], 1):
                one.bind(("127.0.0.1", first + offset))
            return first
        except (OSError, OverflowError):
            continue
        finally:
            for one in taken:
                one.close()


def ranks_in(native: Sequence[str]) -> int:
    """How many data-parallel ranks the user's flags ask for. Raises EngineRefused."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data-parallel-size", "--dp-size", type=int, default=1, dest="replicas")
    parser.add_argument("--attn-dp-size", type=int, default=1, dest="attention")
    found = parser.parse_known_args(list(native))[0]
    return max(1, int(found.replicas)) * max(1, int(found.attention))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise EngineRefused(f"SGLang does not take these flags: {message}")


def launched(flags: Sequence[str]) -> Any:
    """An `sgl.Engine` that is ready. In the main thread, before the event loop runs. Raises EngineRefused."""
    with _undisturbed():
        try:
            # The logarithms of what the model says, not of what temperature makes of it.
            os.environ.setdefault("SGLANG_RETURN_ORIGINAL_LOGPROB", "1")
            engine: Any = library("srt.entrypoints.engine")
            settings: Any = library("srt.server_args").ServerArgs
        except ImportError as error:
            raise EngineRefused(f"--engine sglang needs SGLang ({INSTALL}): {error}") from None
        parser = _Parser(prog="sglang", add_help=False)
        settings.add_cli_args(parser)
        arguments = parser.parse_args(list(flags))
        arguments.custom_sigquit_handler = failed
        logging.getLogger("sglang").setLevel(arguments.log_level.upper())
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)  # or it would make one
        try:
            return _with_guides(engine.Engine)(server_args=settings.from_cli_args(arguments))
        except (Exception, SystemExit) as error:
            words = " ".join(str(error).split())[:CHARS_MAX] or type(error).__name__
            hint = f". {LOGGED}" if "during initialization" in words else ""
            raise EngineRefused(f"SGLang cannot start: {words}{hint}") from error
        finally:
            loop.close()  # the worker's is another


def closed(engine: Any, manager: Any) -> None:
    """What SGLang leaves open in this process."""
    sockets = engine.send_to_rpc, manager.recv_from_detokenizer, manager.send_to_scheduler
    for one in sockets:
        one.close(linger=0)
    for one in sockets:
        one.context.destroy(0)
    reader = manager.load_snapshot_reader
    reader.close()
    if path := getattr(reader, "path", ""):  # in shared memory
        Path(path).unlink(missing_ok=True)


def guides_for(engine: Any, folder: Path, model: Any) -> Guides | None:
    """Those that its schedulers follow; None where they cannot."""
    from nodes.engines.sglang import guided  # it takes SGLang, which must not be loaded before `launched` does it

    return guided.guides_in(folder, model) if guided.possible(engine) else None


def _with_guides(engine: Any) -> Any:
    """SGLang's engine, whose schedulers follow guides if they can."""
    from nodes.engines.sglang import guided

    if not guided.possible(engine):
        return engine
    return type("Engine", (engine,), {"run_scheduler_process_func": staticmethod(guided.schedule)})


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What SGLang sets for its process stays as it was."""
    policy, root, noisy = asyncio.get_event_loop_policy(), logging.getLogger(), logging.getLogger(QUIET)
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # or they would be closed
    noisy.addFilter(_is_news)
    try:
        yield
    finally:
        noisy.removeFilter(_is_news)
        root.handlers, root.level = handlers, level
        asyncio.set_event_loop_policy(policy)
        asyncio.set_event_loop(None)
        signal.signal(signal.SIGQUIT, failed)


def _is_news(record: logging.LogRecord) -> bool:
    return "custom SIGQUIT handler" not in record.msg
