"""Shell. Joining a mesh and calling endpoints: `connect`, `Mesh`, `Client`.

async with connect() as mesh:
    client = mesh.client("demo.hello.generate")
    async for item in client.generate({"names": ["you"]}):
        ...
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import msgspec
from msgspec.structs import replace

from mesh import schema
from mesh.actor import Actor
from mesh.context import Context
from mesh.core import Ask, Want
from mesh.endpoint import check_name
from mesh.failures import DeadlineExceeded, InvalidRequest, MeshError, Unavailable
from mesh.options import Options
from mesh.placement import POLICIES
from mesh.stream import Stream
from proto import limits
from proto.errors import Reason
from proto.messages import Role

DIRECT = "direct"
WINDOW = 256  # items on their way: enough for a fast producer, few enough to hold
PATIENCE_S = 2.0  # how long a request waits for a first instance
GOODBYE_S = 1.0  # for the last words of a client
TIMEOUT_S_MIN = 0.001
TIMEOUT_S_MAX = limits.DEADLINE_MS_MAX / 1000
PARTS = ("namespace", "component", "endpoint")

_read_anything = msgspec.msgpack.Decoder().decode


class Mesh:
    """This process's place in a mesh: what `connect` gives, and what a running component has."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor

    def client(self, endpoint: str, *, policy: str = "round_robin", type: Any = Any) -> "Client":
        """A client for an endpoint. `type` is what items are read as; without it they are builtin values."""
        return Client(self.actor, endpoint, policy, type)


class Client:
    """Calls one endpoint. Each call returns a stream at once; errors come when it is read."""

    def __init__(self, actor: Actor, endpoint: str, policy: str = "round_robin", type: Any = Any) -> None:
        self.endpoint = check_name(endpoint, PARTS)
        if policy not in POLICIES or policy == DIRECT:
            names = ", ".join(name for name in POLICIES if name != DIRECT)
            raise ValueError(f"policy {policy!r}: it must be one of {names}")
        self.policy = policy
        self._actor = actor
        self._decode: Callable[[bytes], Any] = (
            _read_anything if type is Any else schema.decoder(type, f"an item of {endpoint}")
        )
        actor.post(Want(endpoint))

    def instances(self) -> tuple[int, ...]:
        """The nodes that would take a request now."""
        return self._actor.node.instances(self.endpoint)

    async def changed(self) -> tuple[int, ...]:
        """Return the instances when they have changed."""
        await self._actor.changed(self.endpoint)
        return self.instances()

    async def ready(self, count: int = 1, timeout_s: float | None = None) -> tuple[int, ...]:
        """Return the instances once there are `count`. Raises Unavailable after `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while len(self.instances()) < count:
                    await self.changed()
                return self.instances()
        found = len(self.instances())
        raise Unavailable(
            f"{self.endpoint}: {found} of {count} instances after {timeout_s:g} s, looking in "
            f"{self._actor.describe()}; start one, or check --join and --mesh",
            Reason.UNAVAILABLE,
        )

    def generate(self, request: Any = None, **options: Any) -> Stream:
        """Ask an instance of the client's own policy. For the options see `_ask`."""
        return self._ask(request, self.policy, 0, **options)

    def round_robin(self, request: Any = None, **options: Any) -> Stream:
        """Ask the next instance."""
        return self._ask(request, "round_robin", 0, **options)

    def random(self, request: Any = None, **options: Any) -> Stream:
        """Ask any instance."""
        return self._ask(request, "random", 0, **options)

    def least_loaded(self, request: Any = None, **options: Any) -> Stream:
        """Ask the instance with the fewest requests."""
        return self._ask(request, "least_loaded", 0, **options)

    def direct(self, request: Any = None, instance: int = 0, **options: Any) -> Stream:
        """Ask this instance and no other."""
        if not instance:
            raise ValueError("direct: say which instance, one of client.instances()")
        return self._ask(request, DIRECT, instance, **options)

    def _ask(
        self,
        request: Any,
        policy: str,
        instance: int,
        *,
        context: Context | None = None,
        timeout_s: float | None = None,
        stall_s: float | None = None,
        patience_s: float | None = None,
        window: int = WINDOW,
        metadata: Mapping[str, str] | None = None,
    ) -> Stream:
        """Begin a request.

        `context`: stop, kill and deadline of it reach this request, its trace and metadata go along.
        `timeout_s`: when it must be done. `stall_s`: the longest silence. `patience_s`: how long to wait for an
        instance; one that is asked for directly is not waited for once others were seen. `window`: how many items
        may be on their way or unread.
        """
        if context is not None and context.remaining_s == 0:
            raise DeadlineExceeded(f"{self.endpoint}: not asked, the time of its context is up", Reason.DEADLINE)
        if patience_s is None:
            patience_s = 0.0 if instance and self.endpoint in self._actor.seen else PATIENCE_S
        ask = Ask(
            request=self._actor.node.next_request(),
            endpoint=self.endpoint,
            payload=self._payload(request),
            policy=policy,
            pinned=instance,
            window=_within("window", window, 1, limits.ITEMS_MAX),
            timeout_s=_timeout_s(timeout_s, context),
            stall_s=_within("stall_s", stall_s or 0.0, 0.0, TIMEOUT_S_MAX),
            patience_s=_within("patience_s", patience_s, 0.0, TIMEOUT_S_MAX),
            trace=_bounded(context.trace, limits.TRACE_CHARS_MAX, "the trace") if context else "",
            metadata=_metadata(context, metadata),
        )
        return Stream(self._actor, ask, self._decode, context)

    def _payload(self, request: Any) -> bytes:
        try:
            return schema.encode_request(request)
        except schema.Refused as error:
            raise InvalidRequest(f"{self.endpoint}: {error}", Reason.INVALID) from None


class Connection:
    """What `connect` returns: an asynchronous context manager."""

    def __init__(self, options: Options) -> None:
        self._actor = Actor(options, Role.CLIENT)

    async def __aenter__(self) -> Mesh:
        mesh = Mesh(self._actor)
        await self._actor.start(mesh)
        return mesh

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._actor.depart(0.0, GOODBYE_S)


def connect(*, options: Options | None = None, **changes: Any) -> Connection:
    """Join a mesh as a client: `async with connect() as mesh`. Settings: see `mesh.options.Options`.

    Without `options` they come from the WIREMESH_* variables; `join=`, `mesh=`, `key=`, `name=` change single ones.
    """
    return Connection(chosen(options, changes))


def chosen(options: Options | None, changes: dict[str, Any]) -> Options:
    """The options of a call."""
    options = options or Options.from_environment(os.environ)
    given = {name: value for name, value in changes.items() if value is not None}
    unknown = [name for name in given if name not in Options.__struct_fields__]
    if unknown:
        raise TypeError(f"no such option: {', '.join(unknown)}; there are {', '.join(Options.__struct_fields__)}")
    return replace(options, **given)


def _timeout_s(timeout_s: float | None, context: Context | None) -> float:
    """The sooner of the two; 0 means none."""
    remaining_s = context.remaining_s if context is not None else None
    given = [value for value in (timeout_s, remaining_s) if value is not None]
    return min(max(min(given), TIMEOUT_S_MIN), TIMEOUT_S_MAX) if given else 0.0


def _within(name: str, value: Any, least: Any, most: Any) -> Any:
    if not least <= value <= most:
        raise ValueError(f"{name}={value!r}: it must be between {least} and {most}")
    return value


def _bounded(text: str, chars_max: int, what: str) -> str:
    if not isinstance(text, str) or len(text) > chars_max or not _sendable(text):
        raise ValueError(f"{what}: it must be text of at most {chars_max} characters")
    return text


def _sendable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _metadata(context: Context | None, own: Mapping[str, str] | None) -> dict[str, str]:
    """What travels along: the context's, and this request's own on top."""
    merged = {**(context.metadata if context is not None else {}), **(own or {})}
    if len(merged) > limits.METADATA_ENTRIES_MAX:
        raise ValueError(f"{len(merged)} metadata entries: {limits.METADATA_ENTRIES_MAX} are the most")
    for key, value in merged.items():
        _bounded(key, limits.NAME_CHARS_MAX, "a metadata key")
        _bounded(value, limits.TEXT_CHARS_MAX, f"metadata {key!r}")
    return merged


__all__ = ["Client", "Connection", "Mesh", "MeshError", "Stream", "connect"]
