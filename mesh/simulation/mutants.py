"""Shell. Runs the simulator against broken cores and counts how many it notices. The tree itself is never changed.

Each mutant has a process of its own, into which the patched source is loaded in place of the file. It begins with the
seed that noticed it the last time (NOTICED), which mostly does so again. Then the cores as they are run through all
seeds that have noticed something: what is noticed there too is a judge's mistake.
"""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

from mesh.simulation.mutations import Mutation

ROOT = Path(__file__).resolve().parent.parent.parent
NOTICED = ROOT / "tests/sim/noticed.json"  # by mutant: the seed that noticed it the last time
GOAL = 0.95
UNBROKEN = "unbroken"
GARBAGE_EVERY = 100_000  # objects; a run makes few cycles, and looking for them often takes a tenth of the time


class Patched(SourceFileLoader):
    """Loads a module from its source with one change."""

    def __init__(self, name: str, path: str, mutation: Mutation) -> None:
        super().__init__(name, path)
        self._mutation = mutation

    def get_code(self, fullname: str) -> CodeType:
        """The code of the changed source; never from a cache."""
        text = Path(self.path).read_text(encoding="utf-8")
        assert text.count(self._mutation.old) == 1, f"{self._mutation.name} does not fit {self.path} any more"
        code: CodeType = self.source_to_code(text.replace(self._mutation.old, self._mutation.new).encode(), self.path)
        return code


class Finder(MetaPathFinder):
    """Finds the one module that is changed."""

    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation
        self.module = mutation.file.removesuffix(".py").replace("/", ".")

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Its spec; nothing for others."""
        if fullname != self.module:
            return None
        file = str(ROOT / self._mutation.file)
        return spec_from_file_location(fullname, file, loader=Patched(fullname, file, self._mutation))


def mutations(stage: str) -> tuple[Mutation, ...]:
    """All of a stage. No core is imported for them, so that each can still be broken."""
    found: tuple[Mutation, ...] = import_module(f"{stage.rpartition('.')[0]}.mutations").MUTATIONS
    return found


def hunt(name: str, first: Sequence[int], seeds: int, module: str) -> dict[str, Any]:
    """In a process of its own: a seed that notices this mutant; `first` are tried first, then so many in order."""
    finder = _break(name, module) if name != UNBROKEN else None
    from mesh.simulation.stage import find

    stage = find(module)
    assert finder is None or finder.module in sys.modules, f"nobody uses {finder.module}"
    gc.set_threshold(GARBAGE_EVERY)
    begin = time.monotonic()
    for seed in dict.fromkeys([*first, *range(seeds)]):
        result = stage.run(seed, stage.hunters[seed % len(stage.hunters)])
        if result.failed:
            elapsed_s = time.monotonic() - begin
            return {"name": name, "seed": seed, "invariant": result.invariant, "text": result.text, "s": elapsed_s}
    return {"name": name, "seed": -1, "invariant": "", "text": "", "s": time.monotonic() - begin}


def _break(name: str, stage: str) -> Finder:
    """From here on this process loads the broken module."""
    mutation = next(mutation for mutation in mutations(stage) if mutation.name == name)
    finder = Finder(mutation)
    assert finder.module not in sys.modules, f"{finder.module} is loaded already"
    sys.meta_path.insert(0, finder)
    return finder


def run(name: str, seeds: int, stage: str, first: Iterable[int] = ()) -> dict[str, Any]:
    """Start such a process and wait for what it says."""
    command = [sys.executable, "-m", "mesh.simulation.mutants", name, json.dumps([*first]), str(seeds), stage]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"mutant {name} did not run: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(seeds: int, only: str, jobs: int, stages: Sequence[str], keep: bool = False) -> int:
    """All mutants, a line for each; 0 if enough were noticed, and nothing where nothing is broken."""
    count = caught = 0
    sound = True
    noticed: dict[str, int] = json.loads(NOTICED.read_text(encoding="utf-8")) if NOTICED.exists() else {}
    print(f"{'mutant':24} {'seed':>5} {'seconds':>8}  noticed by")
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for stage in stages:
            chosen = {mutation.name: mutation.breaks for mutation in mutations(stage) if only in mutation.name}
            found = _hunt_all(chosen, seeds, stage, pool, noticed)
            count, caught = count + len(chosen), caught + len(found)
            noticed |= found
            sound &= _is_sound(sorted(set(found.values())), stage, pool, max(1, jobs))
    if keep:
        NOTICED.write_text(json.dumps(noticed, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    share = caught / max(1, count)
    print(f"{caught} of {count} noticed within {seeds} seeds each ({share:.0%}; the goal is {GOAL:.0%})")
    return 0 if count and share >= GOAL and sound else 1


def _hunt_all(
    chosen: dict[str, str], seeds: int, stage: str, pool: ThreadPoolExecutor, noticed: dict[str, int]
) -> dict[str, int]:
    """By mutant: the seed that has noticed it."""
    hunts = [pool.submit(run, name, seeds, stage, [noticed[name]] if name in noticed else []) for name in chosen]
    seen: dict[str, int] = {}
    for future in as_completed(hunts):
        found = future.result()
        _print(found, f"NOBODY ({chosen[found['name']]})")
        if found["seed"] >= 0:
            seen[found["name"]] = found["seed"]
    return seen


def _is_sound(seeds: Sequence[int], stage: str, pool: ThreadPoolExecutor, jobs: int) -> bool:
    """Whether these seeds notice nothing where nothing is broken."""
    shares = [share for number in range(jobs) if (share := seeds[number::jobs])]
    runs = [*pool.map(lambda share: run(UNBROKEN, 0, stage, share), shares)]
    for share, found in zip(shares, runs, strict=True):
        _print(found, f"nobody with {len(share)} of the same seeds, as it should be")
    return all(found["seed"] < 0 for found in runs)


def _print(found: dict[str, Any], nobody: str) -> None:
    how = f"{found['invariant']}: {found['text']}" if found["seed"] >= 0 else nobody
    print(f"{found['name']:24} {found['seed']:5} {found['s']:8.1f}  {how[:100]}", flush=True)


if __name__ == "__main__":
    print(json.dumps(hunt(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
