"""Shell. `wiremesh sim`: run, replay, shrink and mutants. Exit codes: 0 all held, 1 something broke, 2 usage."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mesh.core import Effect, Event
from mesh.simulation import mutants, runner
from mesh.simulation.plan import Plan, from_json, to_json
from mesh.simulation.process import Process
from mesh.simulation.shrink import shrink
from mesh.simulation.stage import STAGE, Stage
from mesh.simulation.world import Result

REGRESSIONS = Path("tests/sim/regressions")
SHOWN_MAX = 20  # failures


def main(argv: Sequence[str], stages: Sequence[Stage] = (STAGE,)) -> int:
    """The command. A profile belongs to the stage that has it."""
    options = _parser(stages).parse_args(list(argv))
    options.stages = stages
    if "profile" in options:
        options.stage = next(stage for stage in stages if options.profile in stage.profiles)
    return int(options.run(options))


def _parser(stages: Sequence[Stage]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wiremesh sim", description="The real cores in virtual time, under faults.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run many seeds")
    run.add_argument("--seeds", type=_range, default=range(3000), metavar="A:B", help="default 0:3000")
    _common(run, stages)
    run.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    run.set_defaults(run=_run)
    replay = commands.add_parser("replay", help="run one seed, or the plan in a file, again")
    replay.add_argument("what", metavar="SEED|FILE")
    _common(replay, stages)
    replay.add_argument("--trace", action="store_true", help="print every event and its effects")
    replay.set_defaults(run=_replay)
    smaller = commands.add_parser("shrink", help="find a small plan that fails like a seed, and keep it as a test")
    smaller.add_argument("what", metavar="SEED|FILE")
    _common(smaller, stages)
    smaller.add_argument("--out", type=Path, help=f"where to keep it; default {REGRESSIONS}")
    smaller.set_defaults(run=_shrink)
    broken = commands.add_parser("mutants", help="break the cores on purpose, and count how often that is noticed")
    broken.add_argument("--seeds", type=int, default=2000, metavar="N", help="at most that many each; default 2000")
    broken.add_argument("--only", default="", metavar="NAME", help="mutants whose name contains this")
    broken.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    broken.add_argument("--keep", action="store_true", help="keep which seeds noticed them: next time these come first")
    broken.set_defaults(run=_mutants)
    return parser


def _common(parser: argparse.ArgumentParser, stages: Sequence[Stage]) -> None:
    profiles = [profile for stage in stages for profile in stage.profiles]
    parser.add_argument("--profile", choices=profiles, default=profiles[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)


def _range(text: str) -> range:
    first, _, last = text.rpartition(":")
    try:
        return range(int(first or 0), int(last))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of seeds; write 0:3000") from None


# --- The commands --------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    progress = runner.Progress(len(options.seeds))
    tally = runner.run_all(options.seeds, options.profile, options.jobs, progress, options.stage)
    if options.json:
        print(msgspec.json.encode(tally).decode())
        return 1 if tally.failures else 0
    endings = ", ".join(
        f"{count} {reason}" for reason, count in sorted(tally.reasons.items(), key=lambda pair: -pair[1])
    )
    print(f"{tally.seeds} seeds, {tally.requests} requests ({endings}), {tally.faults} faults, {tally.events:,} events")
    if tally.cpu_s:
        print(
            f"{tally.seeds / tally.cpu_s * 60:,.0f} seeds per minute and core, {tally.events / tally.cpu_s:,.0f} "
            f"events per second and core, {tally.virtual_s / tally.cpu_s:,.0f} times faster than time"
        )
    for result in tally.failures[:SHOWN_MAX]:
        _print_failure(result, options.profile)
    if len(tally.failures) > SHOWN_MAX:
        print(f"... and {len(tally.failures) - SHOWN_MAX} more")
    return 1 if tally.failures else 0


def _print_failure(result: Result, profile: str) -> None:
    print(f"FAILED seed {result.seed}: {result.invariant}: {result.text}")
    print(f"  replay it: wiremesh sim replay {result.seed} --profile {profile} --trace")


def _replay(options: argparse.Namespace) -> int:
    plan = _plan(options.what, options.profile, options.stage)
    result = options.stage.world(plan, _trace if options.trace else None).run()
    for fault in plan.faults:
        print(f"fault {fault}")
    print(f"digest {result.digest:08x}, {result.events} events, {result.virtual_s:.1f} s, endings {result.reasons}")
    print(f"FAILED: {result.invariant}: {result.text}" if result.failed else "all invariants held")
    return 1 if result.failed else 0


def _trace(process: Process, event: Event, effects: list[Effect]) -> None:
    print(f"{process.clock.now:10.4f} {process.label:12} {event}")
    for effect in effects:
        print(f"{'':24} -> {effect}")


def _shrink(options: argparse.Namespace) -> int:
    world = options.stage.world
    plan = _plan(options.what, options.profile, options.stage)
    invariant = world(plan, None).run().invariant
    if not invariant:
        print("all invariants held: there is nothing to shrink")
        return 2
    small = shrink(plan, lambda smaller: world(smaller, None).run().invariant == invariant)
    small.note = f"{plan.profile} {plan.seed}: {world(small, None).run().text}"
    print(f"{len(plan.faults)} faults and {len(plan.calls)} calls became {len(small.faults)} and {len(small.calls)}:")
    for item in (*small.faults, *small.calls):
        print(f"  {item}")
    folder = options.out or (REGRESSIONS if REGRESSIONS.is_dir() else Path())
    path = folder / f"{plan.profile}-{plan.seed}.json"
    path.write_bytes(to_json(small) + b"\n")
    print(f"kept as {path}; replay it: wiremesh sim replay {path} --trace")
    return 0


def _plan(what: str, profile: str, stage: Stage) -> Plan:
    if what.isdigit():
        return stage.draw(int(what), profile)
    try:
        return from_json(Path(what).read_bytes(), stage.plan)
    except (OSError, msgspec.DecodeError) as error:
        print(f"{what} is neither a seed nor the file of a plan: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _mutants(options: argparse.Namespace) -> int:
    stages = [stage.module for stage in options.stages]
    return mutants.main(options.seeds, options.only, options.jobs, stages, options.keep)
