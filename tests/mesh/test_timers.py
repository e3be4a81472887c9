"""A heap of named deadlines behaves like a plain dictionary that is searched."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from mesh.timers import Timers

KEYS = st.sampled_from("abcdef")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.integers(0, 20)),
        st.tuples(st.just("clear"), KEYS, st.just(0)),
        st.tuples(st.just("due"), st.just(""), st.integers(0, 20)),
        st.tuples(st.just("forgive"), st.just(""), st.integers(-5, 5)),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_is_a_dictionary_that_is_searched(steps: list[tuple[str, str, int]]) -> None:
    timers: Timers[str] = Timers()
    model: dict[str, tuple[float, int]] = {}  # (when, set as the how-manieth)
    for count, (step, key, number) in enumerate(steps):
        if step == "set":
            timers.set(key, number)
            model[key] = (number, count)
        elif step == "clear":
            timers.clear(key)
            model.pop(key, None)
        elif step == "forgive":
            timers.forgive(number, number)
            model = {name: (when + number * (when <= number), order) for name, (when, order) in model.items()}
        else:
            due = sorted((entry, name) for name, entry in model.items() if entry[0] <= number)
            assert list(timers.due(number)) == [name for _, name in due]
            for _, name in due:
                del model[name]
        assert len(timers) == len(model)
        assert timers.deadline() == min((when for when, _ in model.values()), default=inf)


def test_equal_deadlines_fire_in_the_order_in_which_they_were_set() -> None:
    timers: Timers[str] = Timers()
    for key in "cab":
        timers.set(key, 1.0)
    timers.set("c", 1.0)
    assert list(timers.due(1.0)) == ["a", "b", "c"]


def test_a_key_that_is_set_again_while_others_fire() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    fired = []
    for key in timers.due(2.0):
        fired.append(key)
        if len(fired) < 3:
            timers.set(key, 1.5)
    assert fired == ["a", "a", "a"]
    assert timers.deadline() == inf


def test_a_key_that_is_cleared_while_others_fire() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    timers.set("b", 1.0)
    for key in timers.due(1.0):
        assert key == "a"
        timers.clear("b")


def test_moving_one_deadline_for_ever_takes_no_memory() -> None:
    timers: Timers[str] = Timers()
    for number in range(10_000):
        timers.set("beat", float(number))
    assert len(timers._heap) < 200
    assert timers.deadline() == 9_999.0
