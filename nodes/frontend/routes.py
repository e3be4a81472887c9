"""Pure. By what names an answer's requests are known on the mesh, and where they went: for headers and `explain`."""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec import Struct

from nodes.frontend.batch import Text
from nodes.frontend.choice import Choice

NAMES_MAX = 16_384  # answers that can still be explained; some 300 bytes each
SHOWN_MAX = 8  # requests in one header: proxies take some kilobytes
WHY_CHARS_MAX = 400  # likewise
PREFIXES = ("chatcmpl-", "cmpl-")  # before the name in what a client was answered

Path = tuple[Sequence[int], Sequence[str], str]  # the nodes of a request so far, what each was asked, and why


class RequestsQuestion(Struct):
    """An answer, by its id, or by the client's own name for its request."""

    id: str


class Requests(Struct):
    """The requests that it is made of: their owner, and its numbers for them; none if it is not known."""

    node: int
    numbers: list[int]


class Names:
    """Of the last answers: the numbers of their requests, by our name and by the client's own."""

    def __init__(self, names_max: int = NAMES_MAX) -> None:
        self._names_max = names_max
        self._requests: OrderedDict[str, tuple[int, ...]] = OrderedDict()  # the oldest first

    def add(self, name: str, client_id: str, requests: Sequence[int]) -> None:
        """An answer begins. Of two with one name the younger one is meant."""
        found = tuple(requests)
        for key in (name, client_id) if client_id else (name,):
            self._requests[key] = found
            self._requests.move_to_end(key)
        while len(self._requests) > self._names_max:
            self._requests.popitem(last=False)

    def get(self, name: str) -> tuple[int, ...]:
        """The requests of an answer, by any of its names; none if it is not known."""
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        return self._requests.get(name, ())


def header_of(owner: int, choices: Sequence[Choice | Text], path_of: Callable[[int], Path | None]) -> bytes:
    """Where the requests of an answer went, as JSON. `path_of` knows those that still run."""
    found = []
    for choice in choices[:SHOWN_MAX]:
        finish = choice.finish
        path = (finish.nodes, finish.endpoints, finish.why) if finish is not None else path_of(choice.request)
        nodes, endpoints, why = path or ((), (), "")
        stops = [[endpoint, f"{node:016x}"] for endpoint, node in zip(endpoints, nodes, strict=False)]
        found.append({"request": f"{owner:016x}-{choice.request}", "stops": stops, "why": why[:WHY_CHARS_MAX]})
    return json.dumps(found).encode()
