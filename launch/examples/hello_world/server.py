"""The smallest component: one endpoint that greets."""

from collections.abc import AsyncIterator

import msgspec

from mesh import Component, Context


class Greeting(msgspec.Struct):
    """Whom to greet."""

    names: list[str]


hello = Component("demo.hello")


@hello.endpoint
async def generate(request: Greeting, context: Context) -> AsyncIterator[str]:
    """Greet one after the other, as long as somebody listens."""
    for name in request.names:
        if context.stopped:
            return
        yield f"Hello {name}!"


if __name__ == "__main__":
    hello.run()
