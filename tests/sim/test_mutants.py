"""The mutants fit the cores as they are, and the simulator notices what it ought to: `wiremesh sim mutants`."""

import json
from pathlib import Path

import pytest

from mesh.simulation import mutants
from mesh.simulation.mutations import MUTATIONS

ROOT = Path(__file__).parents[2]
AT_LEAST = 70
STAGE = "mesh.simulation.stage"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_fits_in_one_place(mutation: mutants.Mutation) -> None:
    text = (ROOT / mutation.file).read_text()
    assert text.count(mutation.old) == 1, "its old text must occur exactly once: change it together with the core"
    changed = text.replace(mutation.old, mutation.new)
    assert changed != text
    compile(changed, mutation.file, "exec")


def test_there_are_enough() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(names) >= AT_LEAST
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "name", ["one_token_short", "credit_ignored", "no_tombstone", "old_hello_taken", "fed_with_nothing"]
)
def test_it_is_noticed(name: str) -> None:
    found = mutants.run(name, 60, STAGE)
    assert found["seed"] >= 0, found
    assert found["invariant"]


def test_a_seed_that_noticed_it_is_tried_first_and_is_sound() -> None:
    """Which mutants were noticed, and by which seeds, is kept; the unbroken cores must not fail under those."""
    noticed = json.loads(mutants.NOTICED.read_text(encoding="utf-8"))
    seed = noticed["one_token_short"]
    assert mutants.run("one_token_short", 0, STAGE, [seed])["seed"] == seed
    assert mutants.run(mutants.UNBROKEN, 0, STAGE, [seed])["seed"] == -1


def test_the_tree_is_not_changed_and_a_misfit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="did not run"):
        mutants.run("no_such_mutant", 1, STAGE)
