"""Shell. An engine behind the mesh, and behind its own server: what the mesh adds in latency and in CPU.

    python -m bench.engines [--rounds 3] [--model FOLDER] [--engine ~/.cache/wiremesh/engines/vllm] [--json FILE]
    python -m bench.engines --kill

The engine is the real one (vLLM), its model tiny, its flags the same, so that what is around it is seen. One system
runs at a time, and they take turns. `vllm serve` has one engine; ours has a frontend, and one worker or two. CPU is of
what serves: everything but the engine cores, whose work is the same. Every response is checked by the load generator.

With --kill streams run on two workers, twice: undisturbed, and with a kill -9 of one in the middle. Every text must be
the same; the table has the longest gap of each stream.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from bench.figures import Result
from bench.loadgen import Load
from bench.processes import Process
from bench.systems import ROOT, free_port
from bench.truth import body
from nodes.folder import folder_of

ENGINE = Path("~/.cache/wiremesh/engines/vllm")
SYSTEMS = {"vllm serve": 0, "wiremesh, 1 worker": 1, "wiremesh, 2 workers": 2}  # and how many workers each has
FLAGS = "--dtype float32 --enforce-eager --max-model-len 1024 --max-num-seqs 32 --block-size 32"
CACHE_BYTES = 128 << 20
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
SERVES = "--distributed-executor-backend uni --generation-config vllm --disable-uvicorn-access-log"
START_S = 300.0
LOAD_S = 120.0
CORE = "VLLM::Engine"  # how it calls its cores
MODEL = "tiny"
KILL_STREAMS, KILL_TOKENS = 8, 400


class Row(Struct, frozen=True):
    """One load."""

    title: str
    connections: int
    tokens: int
    prompt_tokens: int
    seconds: float = 6.0


ROWS = (
    Row("1 stream", 1, 64, 64),
    Row("8 streams", 8, 64, 64),
    Row("one token, 1 at once", 1, 1, 64, 8.0),
)
SHOWS = ("first token p50 ms", "gap p50 ms", "whole p50 ms", "tokens/s", "serving CPU ms/request")


class Sample(Struct):
    """One row of one system in one round."""

    round: int
    system: str
    row: str
    result: Result


def figures(sample: Sample) -> dict[str, float]:
    """What the table shows, by its words."""
    result = sample.result
    return {
        "first token p50 ms": result.first_ms.p50,
        "gap p50 ms": result.gap_ms.p50,
        "whole p50 ms": result.whole_ms.p50,
        "tokens/s": result.tokens_per_s,
        "serving CPU ms/request": result.cpu_us_per_request.get("serving", 0.0) / 1e3,
    }


# --- The systems -------------------------------------------------------------------------------------------


@contextmanager
def running(title: str, model: Path, engine: Path) -> Iterator[tuple[str, list[Process]]]:
    """One that answers: its address, and its processes."""
    folder = Path(tempfile.mkdtemp(prefix="wmb"))
    port = free_port()
    with ExitStack() as stack:
        own = (*FLAGS.split(), "--kv-cache-memory-bytes", str(CACHE_BYTES))
        commands: dict[str, list[str]] = {}
        if not SYSTEMS[title]:
            words = [str(engine / "bin/vllm"), "serve", str(model), "--served-model-name", MODEL, "--port", str(port)]
            commands["serve"] = [*words, "--host", "127.0.0.1", *SERVES.split(), *own]
        join = ["--join", f"dir:{folder}/mesh"]
        for number in range(SYSTEMS[title]):
            words = [str(engine / "bin/wiremesh"), "worker", *join, "--name", f"worker{number}", "--engine", "vllm"]
            commands[f"worker{number}"] = [*words, "--model", str(model), "--name-as", MODEL, "--", *own]
        if SYSTEMS[title]:
            commands["frontend"] = [sys.executable, "-m", "launch.cli", "frontend", *join, "--port", str(port)]
        paths = [str(ROOT), *named(engine, folder / "named")]
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}
        processes = []
        for name, command in commands.items():
            processes.append(Process(name, command, folder / name, environment=environment))
            stack.callback(end, processes[-1])
        url = f"http://127.0.0.1:{port}"
        await_answers(url, processes, max(1, SYSTEMS[title]), model)
        yield url, processes
    shutil.rmtree(folder)


def named(engine: Path, folder: Path) -> list[str]:
    """`vllm serve` looks for a distribution of that name, which builds for CPUs lack: a folder with one, if needed."""
    found = [path.name for path in engine.glob("lib/python*/site-packages/vllm*.dist-info")]
    if not found:
        raise SystemExit(f"there is no vLLM in {engine}: wiremesh engines install vllm --venv {engine} --run")
    if any(name.startswith("vllm-") for name in found):
        return []
    version = found[0].removesuffix(".dist-info").partition("-")[2]
    told = folder / f"vllm-{version}+cpu.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    return [str(folder)]


def end(process: Process) -> None:
    """It and what it started; engines leave their cores behind if they are ended in a hurry."""
    there = [process.pid, *below(process.pid)]
    process.end()
    for pid in there:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


def below(pid: int) -> list[int]:
    """The processes that one has started, and those that they did."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *below(child)]
    return found


def roles(processes: Sequence[Process]) -> dict[str, list[int]]:
    """Engine cores, and what serves them."""
    found: dict[str, list[int]] = {"serving": [], "engine": []}
    for process in processes:
        for pid in (process.pid, *below(process.pid)):
            name = Path(f"/proc/{pid}/comm").read_text() + Path(f"/proc/{pid}/cmdline").read_text()
            found["engine" if CORE in name else "serving"].append(pid)
    return found


def await_answers(url: str, processes: Sequence[Process], workers: int, model: Path) -> None:
    """Until it has answered some requests in a row, so that every worker has."""
    until, right = time.monotonic() + START_S, 0
    while right < 4 * workers:
        for process in processes:
            if not process.alive():
                raise SystemExit(f"{process.name} has ended; see {process.errors}")
        if time.monotonic() > until:
            raise SystemExit(f"{url} does not answer; see {processes[0].errors}")
        try:
            right += measured(Load(url=url, model=MODEL, connections=1, tokens=2, requests=1, folder=str(model))).right
        except (OSError, ValueError, subprocess.SubprocessError):
            time.sleep(0.5)


def measured(load: Load) -> Result:
    """The load generator's result, from a process of its own."""
    words = [sys.executable, "-m", "bench.loadgen", msgspec.json.encode(load).decode()]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=LOAD_S, check=False)
    return msgspec.json.decode(done.stdout, type=Result)


def taken(number: int, title: str, options: argparse.Namespace) -> list[Sample]:
    """All rows of one system."""
    samples = []
    model = folder_of(options.model)
    with running(title, model, options.engine.expanduser()) as (url, processes):
        for row in ROWS:
            load = Load(
                url=url,
                model=MODEL,
                connections=row.connections,
                tokens=row.tokens,
                prompt_tokens=row.prompt_tokens,
                seconds=row.seconds,
                warm_up_s=3.0,
                pids=roles(processes),
                temperature=0.0,
                folder=str(model),
                seed=time.time_ns() % 2**32,
            )
            samples.append(Sample(number, title, row.title, measured(load)))
            shown = "  ".join(f"{name} {value:.4g}" for name, value in figures(samples[-1]).items())
            wrong = samples[-1].result.wrong
            print(f"round {number}  {title:20} {row.title:20} {shown}  wrong {wrong}", file=sys.stderr, flush=True)
    return samples


# --- A death -----------------------------------------------------------------------------------------------


class Stream(threading.Thread):
    """One answer, as it comes."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.times: list[float] = []
        asked = body(MODEL, f"{number} and what came of it", KILL_TOKENS, True, 0.0)
        head = {"content-type": "application/json"}
        self._asked = urllib.request.Request(f"{url}/v1/chat/completions", asked, head)
        self.start()

    def run(self) -> None:
        with urllib.request.urlopen(self._asked, timeout=LOAD_S) as answer:
            for line in answer:
                if line.startswith(b"data: {"):
                    said = [choice["delta"].get("content") for choice in json.loads(line[6:])["choices"]]
                    self.texts += [text for text in said if text]
                    self.times.append(time.perf_counter())

    def gap_ms(self) -> float:
        """The longest between two events."""
        return max((after - before for before, after in pairwise(self.times)), default=0.0) * 1e3


def streamed(url: str, strike: Callable[[], None]) -> list[Stream]:
    """All streams, whole; `strike` is called when each is a quarter done."""
    streams = [Stream(url, number) for number in range(KILL_STREAMS)]
    until = time.monotonic() + LOAD_S
    while min(len(stream.times) for stream in streams) < KILL_TOKENS // 4 and time.monotonic() < until:
        time.sleep(0.005)
    strike()
    for stream in streams:
        stream.join(LOAD_S)
    return streams


def struck(model: Path, engine: Path) -> int:
    """Undisturbed, and with a death: prints what clients noticed; how many texts differ."""
    with running("wiremesh, 2 workers", model, engine) as (url, processes):
        calm = streamed(url, lambda: None)
        before = moved(url)
        killed = streamed(url, lambda: processes[0].signal(signal.SIGKILL))
        count = moved(url) - before
    wrong = sum(
        one.texts == [] or "".join(one.texts) != "".join(two.texts) for one, two in zip(calm, killed, strict=True)
    )
    rows = [("undisturbed", calm, 0), ("kill -9 of a worker", killed, count)]
    print("| | streams | of them moved | texts that differ | longest gap of a stream, p50 / max ms |")
    print("|---|---|---|---|---|")
    for title, streams, of_them in rows:
        gaps = sorted(stream.gap_ms() for stream in streams)
        print(f"| {title} | {len(gaps)} | {of_them} | {wrong} | {median(gaps):.0f} / {gaps[-1]:.0f} |")
    return wrong


def moved(url: str) -> int:
    """Requests that went on elsewhere, as the mesh counts them."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=LOAD_S) as answer:
        lines = answer.read().decode().splitlines()
    wanted = (line for line in lines if line.startswith("wiremesh_node_events_total") and '"requests.moved"' in line)
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in wanted))


# --- The table ---------------------------------------------------------------------------------------------


def table(samples: Sequence[Sample]) -> str:
    """Markdown: medians, and the ratio to the engine's own server within a round."""
    titles = list(SYSTEMS)
    lines = [
        "| | | " + " | ".join(titles) + " | ratio, 1 worker | ratio, 2 |",
        "|---|---|" + "---|" * (len(titles) + 2),
    ]
    for row in ROWS:
        for name in SHOWS:
            by = {
                title: {one.round: figures(one)[name] for one in samples if (one.system, one.row) == (title, row.title)}
                for title in titles
            }
            cells = [f"{median(found.values()):.3g}" if found else "-" for found in by.values()]
            ratios = [ratio_of(by[title], by[titles[0]]) for title in titles[1:]]
            lines.append(f"| {row.title} | {name} | " + " | ".join([*cells, *ratios]) + " |")
    return "\n".join(lines)


def ratio_of(ours: dict[int, float], theirs: dict[int, float]) -> str:
    found = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
    return f"{median(found):.2f} ({min(found):.2f}-{max(found):.2f})" if found else "-"


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="demo", help="a folder of a model that has a chat template")
    parser.add_argument("--engine", type=Path, default=ENGINE, help="the environment that vLLM and Wiremesh are in")
    parser.add_argument("--only", default="", help="only systems with this in their name")
    parser.add_argument("--kill", action="store_true", help="what a stream notices of the death of a worker")
    parser.add_argument("--json", type=Path, help="append every sample to this file, one a line")
    parser.add_argument("--show", type=Path, nargs="+", default=[], help="measure nothing: the table of such files")
    options = parser.parse_args(arguments)
    if options.kill:
        return int(struck(folder_of(options.model), options.engine.expanduser()) > 0)
    samples = [msgspec.json.decode(line, type=Sample) for path in options.show for line in path.open("rb")]
    for number in range(1, options.rounds + 1) if not options.show else ():
        for title in (title for title in SYSTEMS if options.only in title):
            found = taken(number, title, options)
            samples += found
            if options.json is not None:
                with options.json.open("ab") as file:
                    file.writelines(msgspec.json.encode(sample) + b"\n" for sample in found)
    print(table(samples))
    return int(any(sample.result.wrong for sample in samples))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
