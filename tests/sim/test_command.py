"""`wiremesh sim`: what it prints and how it exits."""

import io
import json
from pathlib import Path

import pytest

from mesh.simulation import command, runner
from mesh.simulation.draw import draw
from mesh.simulation.plan import from_json, to_json
from mesh.simulation.world import Result, World


def test_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["run", "--seeds", "0:8", "--jobs", "1"]) == 0
    out, err = capsys.readouterr()
    assert "8 seeds" in out and "seeds per minute and core" in out
    assert "8/8 seeds" in err and "0 failed" in err


def test_run_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["run", "--seeds", "3", "--jobs", "1", "--json", "--profile", "calm"]) == 0
    tally = json.loads(capsys.readouterr().out)
    assert tally["seeds"] == 3 and tally["failures"] == []


def test_several_processes() -> None:
    tally = runner.run_all(range(4), "calm", 2, lambda tally: None)
    assert (tally.seeds, tally.failures) == (4, [])
    assert tally.events == runner.run_all(range(4), "calm", 1, lambda tally: None).events


def test_a_failure_prints_how_to_replay_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Result(7, 1, 1, 1.0, 1, 1, 1, {}, {}, "2 values", "wrong")
    monkeypatch.setattr(runner, "run_seed", lambda seed, profile, stage: broken)
    assert command.main(["run", "--seeds", "7:8", "--jobs", "1", "--profile", "drain"]) == 1
    out = capsys.readouterr().out
    assert "FAILED seed 7: 2 values: wrong" in out
    assert "wiremesh sim replay 7 --profile drain" in out


def test_a_digest_that_differs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = iter((1, 2))
    monkeypatch.setattr(World, "run", lambda self: Result(0, next(digests), 1, 1.0, 1, 1, 1, {}, {}))
    assert runner.run_seed(0, "calm").invariant == "27 determinism"


def test_replay(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(["replay", "3"]) == 0
    from_seed = capsys.readouterr().out
    file = tmp_path / "plan.json"
    file.write_bytes(to_json(draw(3)))
    assert command.main(["replay", str(file)]) == 0
    assert capsys.readouterr().out == from_seed
    assert command.main(["replay", "3", "--trace", "--profile", "calm"]) == 0
    assert "-> Transmit(" in capsys.readouterr().out


def test_shrink(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.main(["shrink", "3"]) == 2, "nothing fails: nothing to shrink"

    def run(world: World) -> Result:
        return Result(0, 1, 1, 1.0, 1, 1, 1, {}, {}, "2 values" if world.plan.faults else "")

    monkeypatch.setattr(World, "run", run)
    seed = next(seed for seed in range(50) if len(draw(seed).faults) > 2)
    assert command.main(["shrink", str(seed), "--out", str(tmp_path)]) == 0
    kept = from_json((tmp_path / f"chaos-{seed}.json").read_bytes())
    assert (len(kept.faults), kept.calls) == (1, [])
    assert "1 and 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["run", "--seeds", "a:b"], ["replay"], ["replay", "nowhere.json"], ["run", "--profile", "war"]]
)
def test_mistakes_are_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err


def test_the_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    bar = runner.Progress(4, out)
    bar(runner.Tally(seeds=2, events=1000))
    bar(runner.Tally(seeds=4, events=2000))
    assert out.getvalue().count("\r") == 2 and out.getvalue().endswith("\n")
    assert "[###############...............]" in out.getvalue()
