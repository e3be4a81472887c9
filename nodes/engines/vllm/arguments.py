"""Shell. What vLLM is started with: our own flags in its words, then whatever stands behind `--`, which wins."""

import argparse
import os
import socket
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import Struct

from nodes.contract.media import IMAGE
from nodes.engine_options import EngineOptions
from nodes.engines.logits import processors_of
from nodes.engines.outside import EngineRefused
from nodes.engines.pooling import is_embedder
from nodes.engines.shown import sight_for
from nodes.engines.transformers.vision import Sight
from nodes.engines.vllm.library import MISSING, part

LOGPROBS_MAX = 128  # alternatives of a position: what `nodes.generation` lets through
SAMPLER = "nodes.engines.vllm.drawing:KeyedSampling"
LOOKING = "nodes.engines.vllm.looking.Looking"
LEASE_S = 30  # vLLM's own: how long a prefill keeps its blocks for who never came
PROCESSORS = "wiremesh_logits_processors"  # in vLLM's additional_config: our sampler looks there
BLOCK_TOKENS = EngineOptions().block_tokens  # where nobody chose, vLLM chooses
PORTS_TRIED_MAX = 64
FLAGS = "'wiremesh worker --engine vllm ... -- FLAGS'"


class Arguments(Struct):
    """All that a source is to know."""

    engine: Any  # vllm's AsyncEngineArgs
    loras: dict[str, str]  # where each adapter lies
    keyed: bool  # whether our sampler draws
    processed: bool  # whether it lets somebody change the logits of all requests
    native: str  # how it hands over; see nodes.native
    lease_s: float
    streams: list[tuple[str, str]]  # of each rank: where its cache's changes are published, and replayed
    sight: Sight | None = None  # how pictures are prepared for it
    looks: bool = False  # whether our extension of its workers is there


def arguments_of(folder: Path, options: EngineOptions, stack: ExitStack) -> Arguments:
    """Everything decided. Raises EngineRefused. What must be cleared away in the end is left in `stack`."""
    prepare()
    try:
        kind = part("engine.arg_utils").AsyncEngineArgs
    except ImportError as error:
        raise EngineRefused(f"{MISSING} ({error})") from None
    sight = None if is_embedder(folder) else sight_for(folder)
    known = _parsed(kind, [*_ours(folder, options, sight), *options.native])
    loras = _loras(known.lora_modules)
    if loras:
        known.enable_lora = True
        # On a CPU vLLM 0.32 gives requests without an adapter the last one's (an index of -1): that slot stays empty.
        known.max_loras = max(known.max_loras or 1, len(loras) + _is_cpu())
    pools = known.runner == "pooling" or (known.runner == "auto" and is_embedder(folder))
    keyed = not (pools or known.logits_processors or known.speculative_config)
    if keyed:
        known.logits_processors = [SAMPLER]
    if options.logits_processor:
        processors_of(options.logits_processor)  # what cannot be loaded is refused here
        if not keyed:
            raise EngineRefused("--logits-processor needs our sampler, which speculative decoding and others exclude")
        known.additional_config = {**(known.additional_config or {}), PROCESSORS: list(options.logits_processor)}
    if pools:
        sight = None
    looks = sight is not None and _eyes(known)
    lease_s = _connector(known, options.role)
    caches = known.enable_prefix_caching is not False and options.caching and not pools
    streams = _events(known, stack) if caches else []
    if _is_cpu() and known.distributed_executor_backend is None and (known.tensor_parallel_size or 1) == 1:
        known.distributed_executor_backend = "uni"
    engine = kind.from_cli_args(known)
    native, processed = "after" if known.kv_transfer_config else "", bool(options.logits_processor)
    return Arguments(engine, loras, keyed, processed, native, lease_s, streams, sight, looks)


def prepare() -> None:
    """What vLLM reads from its environment while it is imported; what somebody has set stays."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # what is forked carries no mark of its guard
    if not has_gpu():
        # Two processes instead of three, and half the time to start.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # or all workers are tied to the same cores


def has_gpu() -> bool:
    """Whether there is a device that the official vLLM could use; without asking a driver, which takes seconds."""
    return any(Path(name).exists() for name in ("/dev/nvidiactl", "/dev/kfd", "/dev/dri/renderD128", "/dev/accel"))


def free_ports(count: int) -> int:
    """The first of so many ports in a row that are free on loopback now."""
    for _ in range(PORTS_TRIED_MAX):
        with ExitStack() as stack:
            first = _bound(stack, 0)
            if first and all(_bound(stack, first + more) for more in range(1, count)):
                return first
    raise EngineRefused(f"there are no {count} free ports in a row on this machine")


def _bound(stack: ExitStack, port: int) -> int:
    taken = stack.enter_context(socket.socket())
    try:
        taken.bind(("", port))
    except (OSError, OverflowError):
        return 0
    found: int = taken.getsockname()[1]
    return found


def _is_cpu() -> bool:
    return bool(part("platforms").current_platform.is_cpu())


def _ours(folder: Path, options: EngineOptions, sight: Sight | None) -> list[str]:
    # By priority is in order of arrival, where nobody has one.
    given = ["--model", str(folder), "--max-logprobs", str(LOGPROBS_MAX), "--scheduling-policy", "priority"]
    # What its processor would keep is never prepared there.
    given += ["--enable-mm-embeds", "--mm-processor-cache-gb", "0"] if sight is not None else []
    for flag, value in (
        ("--max-num-seqs", options.slots),
        ("--max-model-len", options.context),
        ("--max-num-batched-tokens", options.step_tokens),
        ("--block-size", options.block_tokens if options.block_tokens != BLOCK_TOKENS else 0),
        ("--dtype", options.dtype),
    ):
        given += [flag, str(value)] if value else []
    return given if options.caching else [*given, "--no-enable-prefix-caching"]


def _eyes(known: argparse.Namespace) -> bool:
    """For a model that sees: what vLLM is to be asked for. Whether its tower will look for us."""
    if find_spec("torchvision") is None:
        raise EngineRefused(
            "vLLM needs torchvision for models that see: 'pip install torchvision', where there is no GPU with "
            "'--index-url https://download.pytorch.org/whl/cpu'"
        )
    known.mm_device_do_normalize = False  # pictures come to it normalized
    limit = (known.limit_mm_per_prompt or {}).get(IMAGE)
    blind = known.language_model_only or 0 in (limit, limit.get("count") if isinstance(limit, dict) else None)
    if blind or known.worker_extension_cls:
        return False
    known.worker_extension_cls = LOOKING
    return True


def _parsed(arguments: Any, words: list[str]) -> argparse.Namespace:
    flexible = part("utils.argparse_utils").FlexibleArgumentParser
    parser: Any = arguments.add_cli_args(flexible(prog="vllm", add_help=False))
    parser.add_argument("--lora-modules", nargs="+", default=[])

    def refuse(message: str) -> None:
        raise EngineRefused(f"vLLM refuses a flag of {FLAGS}: {message}")

    parser.error = refuse
    try:
        found: argparse.Namespace = parser.parse_args(words)
    except SystemExit:  # it has printed something instead
        raise EngineRefused(f"vLLM refuses the flags of {FLAGS}") from None
    except (ValueError, TypeError) as error:
        raise EngineRefused(f"vLLM refuses a flag of {FLAGS}: {error}") from None
    return found


def _loras(modules: list[str]) -> dict[str, str]:
    """NAME=PATH. A path that is none would kill the engine when it is asked for, so it is looked at now."""
    found: dict[str, str] = {}
    for module in modules:
        name, equals, path = module.partition("=")
        if not equals or not name:
            raise EngineRefused(f"--lora-modules has {module!r}: it must be NAME=PATH")
        if not (Path(path) / "adapter_config.json").is_file():
            raise EngineRefused(f"--lora-modules has {module!r}: there is no adapter_config.json in {path}")
        found[name] = path
    return found


def _connector(known: argparse.Namespace, role: str) -> float:
    """How caches go from prefill to decode: NIXL, unless other flags say so. Returns the lease of what is offered."""
    kind, config = part("config").KVTransferConfig, known.kv_transfer_config
    if config is None and role in ("prefill", "decode"):
        if find_spec("nixl") is None:
            raise EngineRefused(
                f"--role {role} with vLLM needs NIXL: 'pip install nixl', or name a connector behind `--`, "
                "as in -- --kv-transfer-config '{\"kv_connector\": ...}'"
            )
        # What cannot be fetched is computed: exact, and only slower.
        part_of = "kv_producer" if role == "prefill" else "kv_consumer"
        config = kind(kv_connector="NixlConnector", kv_role=part_of, kv_load_failure_policy="recompute")
        known.kv_transfer_config = config
    if config is None:
        return LEASE_S
    if not isinstance(config, kind):
        config = known.kv_transfer_config = kind(**config)
    # Two engines on one side channel: the second hangs for ever as it starts.
    ranks = known.data_parallel_size or 1
    if "VLLM_NIXL_SIDE_CHANNEL_PORT" not in os.environ:
        os.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(free_ports(ranks))
    else:
        _check_side_channel(int(os.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"]), ranks)
    return float(config.get_from_extra_config("kv_lease_duration", LEASE_S))


def _check_side_channel(first: int, count: int) -> None:
    with ExitStack() as stack:
        for port in range(first, first + count):
            if not _bound(stack, port):
                raise EngineRefused(
                    f"VLLM_NIXL_SIDE_CHANNEL_PORT is {first}, but port {port} is taken: leave it unset, or name another"
                )


def _events(known: argparse.Namespace, stack: ExitStack) -> list[tuple[str, str]]:
    """Where vLLM tells of its cache: to us alone. If flags send it elsewhere, it is not listened to."""
    if known.kv_events_config is not None:
        return []
    ranks = known.data_parallel_size or 1
    if ranks == 1:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="wm-vllm-"))  # 0700
        pairs = [(f"ipc://{folder}/events", f"ipc://{folder}/replay")]
        first = pairs[0]
    else:  # which vLLM can only count up in ports
        port = free_ports(2 * ranks)
        pairs = [(f"tcp://127.0.0.1:{port + rank}", f"tcp://127.0.0.1:{port + ranks + rank}") for rank in range(ranks)]
        first = f"tcp://*:{port}", pairs[0][1]
    known.kv_events_config = part("config").KVEventsConfig(
        enable_kv_cache_events=True, publisher="zmq", endpoint=first[0], replay_endpoint=first[1]
    )
    return pairs
