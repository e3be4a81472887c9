"""Pure. Requests that no instance can take now, by endpoint, in the order in which they came."""

from mesh.request import Request


class Waiting:
    """The queue of one node's own requests."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[int, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, request: Request, now: float) -> bool:
        """Let a request wait; whether it did not before."""
        if request.waiting:
            return False
        request.waiting = True
        request.heard = now
        for endpoint in _wanted(request):
            self._queues.setdefault(endpoint, {})[request.number] = None
        return True

    def remove(self, request: Request) -> bool:
        """It waits no more; whether it did."""
        if not request.waiting:
            return False
        request.waiting = False
        for endpoint in _wanted(request):
            queue = self._queues[endpoint]
            del queue[request.number]
            if not queue:
                del self._queues[endpoint]
        return True

    def of(self, endpoint: str) -> list[int]:
        """Who waits for an endpoint, first come first."""
        return list(self._queues.get(endpoint, ()))

    def all(self) -> dict[int, None]:
        """Everybody."""
        return {number: None for queue in self._queues.values() for number in queue}


def _wanted(request: Request) -> list[str]:
    return list(dict.fromkeys((request.ask.endpoint, *request.ask.needs)))
