"""Shell. Somebody else's code on the mesh: `Component`, its endpoints, and the process that serves them.

hello = Component("demo.hello")

@hello.endpoint
async def generate(request: Greeting, context: Context):
    yield "..."

hello.run()                       # or: wiremesh run module:hello
"""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from mesh.endpoint import Endpoint, check_name, check_part, define

if TYPE_CHECKING:
    import asyncio

    from mesh.actor import Actor
    from mesh.client import Client, Mesh
    from mesh.options import Options

PARTS = ("namespace", "component")
FORCED_S = 6.0  # after the grace: the core waits 5 s for handlers that ignore their end
EXIT_CRASHED = 70  # EX_SOFTWARE

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Component:
    """A named set of endpoints."""

    def __init__(self, name: str) -> None:
        self.name = check_name(name, PARTS)
        self.endpoints: dict[str, Endpoint] = {}
        self._mesh: Mesh | None = None

    @overload
    def endpoint(self, handler: Handler) -> Handler: ...

    @overload
    def endpoint(self, *, name: str = "", slots: int = 0) -> Callable[[Handler], Handler]: ...

    def endpoint(self, handler: Any = None, *, name: str = "", slots: int = 0) -> Any:
        """Make a function an endpoint, `namespace.component.function`. The function itself stays as it is.

        `slots`: how many requests may run at once; more wait. A parameter `resume` makes the endpoint resumable.
        """
        if handler is None:
            return lambda handler: self._add(handler, name, slots)
        return self._add(handler, name, slots)

    def _add(self, handler: Handler, name: str, slots: int) -> Handler:
        short = check_part(name or getattr(handler, "__name__", ""), f"{self.name}: the endpoint")
        full = f"{self.name}.{short}"
        if full in self.endpoints:
            raise ValueError(f"{full} is defined twice: give one of them another name=")
        self.endpoints[full] = define(full, handler, slots)
        return handler

    def client(self, endpoint: str, **options: Any) -> "Client":
        """A client for another endpoint, over the node that serves this component; only while it serves."""
        if self._mesh is None:
            raise RuntimeError(f"{self.name} does not serve yet: use this in a handler, or 'mesh.connect' outside")
        return self._mesh.client(endpoint, **options)

    def serving(self, *, options: "Options | None" = None, **changes: Any) -> "Serving":
        """Serve in the running event loop: `async with component.serving() as mesh`."""
        from mesh.client import chosen  # What follows loads ZeroMQ; to define a component does not.

        return Serving(self, chosen(options, changes))

    def run(self, *, options: "Options | None" = None, **changes: Any) -> None:
        """Serve until told to leave, then exit the process."""
        from mesh.client import chosen

        sys.exit(serve(self, chosen(options, changes)))


class Serving:
    """A component that serves in somebody's event loop."""

    def __init__(self, component: Component, options: "Options") -> None:
        from mesh.actor import Actor
        from proto.messages import Role

        if not component.endpoints:
            raise ValueError(f"{component.name} has no endpoint: decorate a function with @component.endpoint")
        self.actor: Actor = Actor(options, Role.COMPONENT, component.endpoints, component.name)
        self._component = component

    async def __aenter__(self) -> "Mesh":
        from mesh.client import Mesh

        mesh = Mesh(self.actor)
        await self.actor.start(mesh)
        self._component._mesh = mesh
        return mesh

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.actor.depart(0.0, FORCED_S)
        self._component._mesh = None


def serve(component: Component, options: "Options") -> int:
    """Serve until a signal, then drain; returns the exit code of the process."""
    import asyncio

    from mesh import logs, process

    logs.configure(options.log_format)
    process.raise_descriptor_limit()
    process.disable_core_dumps()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_serve(component, options))


async def _serve(component: Component, options: "Options") -> int:
    from mesh.process import on_signals

    serving = Serving(component, options)
    actor = serving.actor
    async with serving:
        on_signals(actor.loop, lambda: actor.leave(options.drain_s), lambda: None)
        print(_ready(component, actor), flush=True)
        await actor.departed
    return 0 if actor.crashed is None else EXIT_CRASHED


def _ready(component: Component, actor: "Actor") -> str:
    """The one line that says that it serves, and how it is found."""
    settings = actor.node.settings
    names = ", ".join(component.endpoints)
    return f"{component.name} is ready: node {settings.node:016x} ({settings.name}) serves {names}; {actor.describe()}"


def new_loop() -> "asyncio.AbstractEventLoop":
    """uvloop where there is one: it halves the cost of a turn."""
    import asyncio

    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
