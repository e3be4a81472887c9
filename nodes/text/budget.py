"""Pure. What rendering a template may cost: steps and characters are counted, so that every frontend answers the same.

A step is a turn of a loop, a call, a filter or a value written out; characters are what joins, repetitions and outputs
make. They bound memory: whatever would make more is refused before it is made. Mostly they bound time too; for what
they cannot see (a comparison of two long texts, a hundred thousand times) there is a clock behind them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

STEPS_MAX = 100_000  # of a template by itself
STEPS_PER_VALUE = 50  # for each message, field and tool that it is given
STEPS_PER_KIB = 64  # for the texts that it is given: so many passes over all of them
CHARS_MAX = 2 * 1024 * 1024
CHARS_PER_CHAR = 8  # a text passes through a few variables and macros on its way
SECONDS_MAX = 0.25  # of processor time
SECONDS_PER_VALUE = 20e-6
CALL_STEPS = 4  # a call takes about as long as four turns
CHARS_PER_STEP = 1024
CLOCK_STEPS = 64  # between two looks at the clock
PLAIN = (str, int, float, bool, type(None))


class Exhausted(Exception):
    """The template does more than it may."""


class Budget:
    """What one rendering has left."""

    __slots__ = ("_clock", "_end", "_look", "_seconds", "chars", "steps")

    def __init__(self, clock: Callable[[], float], values: int = 0, chars: int = 0) -> None:
        self._clock = clock
        self._seconds = SECONDS_MAX + SECONDS_PER_VALUE * values
        self._end = 0.0  # by the clock, from the first look at it: most templates end before
        self.steps = STEPS_MAX + STEPS_PER_VALUE * values + STEPS_PER_KIB * (chars // 1024)
        self.chars = CHARS_MAX + CHARS_PER_CHAR * chars
        self._look = self.steps - CLOCK_STEPS  # at so many or fewer, something may be wrong

    def step(self, steps: int = 1) -> None:
        """Something was done."""
        self.steps -= steps
        if self.steps <= self._look:
            self._check()

    def make(self, chars: int) -> None:
        """Text is about to be made."""
        self.chars -= chars
        if self.chars < 0:
            self._check()

    def _check(self) -> None:
        """Whether it has gone too far; every so many steps with a look at the clock."""
        if self.steps < 0:
            raise Exhausted("it takes too many steps")
        if self.chars < 0:
            raise Exhausted("it makes too much text")
        self._look = max(-1, self.steps - CLOCK_STEPS)
        now = self._clock()
        self._end = self._end or now + self._seconds
        if now > self._end:
            raise Exhausted("it takes too long")

    def handle(self, value: object) -> None:
        """A filter or a call gets a value and may walk all of it."""
        if isinstance(value, str):
            self.step(1 + len(value) // CHARS_PER_STEP)
        else:
            self.step(1 + (len(value) // 4 if isinstance(value, Sized) else 0))

    def build(self, value: Any, times: int = 1) -> Any:
        """A container is made of others: it costs what it would be written out, so that no nest of references grows
        faster than what was paid for it."""
        stack, total = [value], 0
        while stack:
            item = stack.pop()
            total += 1
            if total * times > self.steps:
                raise Exhausted("it builds too much")
            if isinstance(item, dict):
                stack.extend(item.values())
            elif isinstance(item, list | tuple):
                stack.extend(item)
        self.step(total * times // 4)
        return value

    def turns(self, values: Iterable[Any], chars: int) -> Iterator[Any]:
        """The values of a loop, whose body writes so many characters by itself."""
        for value in values:
            self._spend(chars)
            yield value

    def text(self, value: Any) -> str:
        """A value as it is written out."""
        if isinstance(value, str):
            self._spend(len(value))
            return value
        self._spend(self.written(value))
        return str(value)

    def _spend(self, chars: int) -> None:
        """A step that makes text: there are more of them than of all else."""
        self.steps -= 1
        self.chars -= chars
        if self.steps <= self._look or self.chars < 0:
            self._check()

    def written(self, value: Any) -> int:
        """At most how many characters a container takes; raises for what is no plain data in it."""
        total, stack = 0, [value]
        while stack:
            item = stack.pop()
            self.step()
            total += 4 + (6 * len(item) if isinstance(item, str) else 28)
            if isinstance(item, dict):
                stack += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                stack += item
            elif not isinstance(item, PLAIN):
                raise Exhausted("it writes out what is no data")
        return total


def weight(variables: Mapping[str, Any]) -> tuple[int, int]:
    """How many values and characters go into a template."""
    values, chars, inner = 1, 0, [variables.values()]
    for children in inner:  # it grows meanwhile
        values += len(children)
        for child in children:
            kind = type(child)  # of what JSON makes
            if kind is str:
                chars += len(child)
            elif kind is dict:
                inner.append(child.values())
            elif kind is list:
                inner.append(child)
    return values, chars
