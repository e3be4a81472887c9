"""Pure. What of a cache can be found: the blocks that are held together with all blocks before them.

An engine may turn out a block in the middle of a prefix. What comes after it is still in memory, but no prompt finds
it: to look a prompt up is to walk it from its start. So a worker tells routers only of blocks that can be found. A
removal in the middle removes all that comes after, and when the gap is filled again, all of it is stored again. This
is what lets routers look at a few blocks instead of each (`nodes.routing.lookup`).

While nobody listens it sleeps: it knows what is held, and works out what can be found when somebody does.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

ORPHANS_MIN = 1_024  # removed blocks remembered at least, whatever the engine's size


class Closure:
    """The blocks of one cache. A block that follows 0, or a hash that never was a block's, begins a prompt."""

    def __init__(self, pieces: int = 1, remembered_max: int = ORPHANS_MIN) -> None:
        self._parents: dict[int, int] = {}  # of all that is held
        self._children: dict[int, int | dict[int, None]] = {}  # of all that is held, by parent; mostly there is one
        self._gone: OrderedDict[int, None] = (
            OrderedDict()
        )  # not held any more: what follows one of these has a hole before it
        self._remembered_max = max(remembered_max, ORPHANS_MIN)
        self._pieces: list[dict[int, None]] = [{} for _ in range(pieces)]  # all that can be found
        self._asleep = False
        self.found = 0

    @property
    def pieces(self) -> int:
        """Into how many pieces it is cut: a power of two."""
        return len(self._pieces)

    def piece(self, number: int) -> Iterable[int]:
        """What can be found, of one piece."""
        return self._pieces[number]

    def recut(self, pieces: int) -> None:
        """Into more pieces."""
        every = [name for piece in self._pieces for name in piece]
        self._pieces = [{} for _ in range(pieces)]
        for name in every:
            self._pieces[name & (pieces - 1)][name] = None

    def can_find(self, name: int) -> bool:
        """Whether a prompt that holds this block finds it."""
        return name in self._pieces[name & (len(self._pieces) - 1)]

    def holds(self, name: int) -> bool:
        """Whether it is held, to be found or not."""
        return name in self._parents

    def sleep(self) -> None:
        """Nobody asks what can be found."""
        self._asleep = True
        self._forget_found()

    def wake(self) -> None:
        """Work out what can be found."""
        if not self._asleep:
            return
        self._asleep = False
        for name, parent in self._parents.items():
            self._adopt(name, parent)
        for name, parent in self._parents.items():
            if parent not in self._parents and parent not in self._gone:
                for each in self._below(name):
                    self._show(each)

    def store(self, name: int, parent: int) -> Sequence[int]:
        """The engine has it; returns what can be found now and could not before."""
        parents = self._parents
        if name in parents or name == parent:
            return ()
        parents[name] = parent
        self._gone.pop(name, None)
        if self._asleep:
            return ()
        self._adopt(name, parent)
        if not (self.can_find(parent) if parent in parents else parent not in self._gone):
            return ()
        if name not in self._children:
            return (self._show(name),)
        return [self._show(each) for each in self._below(name) if not self.can_find(each)]

    def remove(self, name: int) -> Sequence[int]:
        """The engine has it no more; returns what can be found no more."""
        parent = self._parents.pop(name, None)
        if parent is None:
            return ()
        self._remember(name)
        if self._asleep:
            return ()
        self._disown(name, parent)
        if not self.can_find(name):
            return ()
        if name not in self._children:
            return (self._hide(name),)
        return [self._hide(each) for each in self._below(name)]

    def clear(self) -> None:
        """The engine has nothing; but what runs there may go on from blocks that it had."""
        for name in self._parents:
            self._remember(name)
        self._parents.clear()
        self._forget_found()

    def _forget_found(self) -> None:
        self._children.clear()
        for piece in self._pieces:
            piece.clear()
        self.found = 0

    def _below(self, name: int) -> Iterator[int]:
        """It and all that follows it, whoever comes before first."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            yield name
            children = self._children.get(name)
            if isinstance(children, int):
                waiting.append(children)
            elif children:
                waiting.extend(children)

    def _show(self, name: int) -> int:
        self._pieces[name & (len(self._pieces) - 1)][name] = None
        self.found += 1
        return name

    def _hide(self, name: int) -> int:
        del self._pieces[name & (len(self._pieces) - 1)][name]
        self.found -= 1
        return name

    def _adopt(self, name: int, parent: int) -> None:
        children = self._children.get(parent)
        if children is None:
            self._children[parent] = name
        elif isinstance(children, int):
            self._children[parent] = {children: None, name: None}
        else:
            children[name] = None

    def _disown(self, name: int, parent: int) -> None:
        children = self._children[parent]
        if isinstance(children, dict) and len(children) > 1:
            del children[name]
        else:
            del self._children[parent]

    def _remember(self, name: int) -> None:
        self._gone[name] = None
        if len(self._gone) > self._remembered_max:
            self._gone.popitem(last=False)

    def check(self) -> None:
        """Assert that exactly that can be found which has no hole before it."""
        every = [name for piece in self._pieces for name in piece]
        assert self.found == len(every)
        if self._asleep:
            assert not every and not self._children
            return
        for name, parent in self._parents.items():
            if parent in self._parents:
                assert self.can_find(name) == self.can_find(parent), name
            else:
                assert not (self.can_find(name) and parent in self._gone), name
        assert all(name in self._parents for name in every)
