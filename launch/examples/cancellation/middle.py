"""The middle of the chain: asks the counter, and passes its own context on."""

from collections.abc import AsyncIterator

from mesh import Component, Context

middle = Component("demo.middle")


@middle.endpoint
async def count(request: int, context: Context) -> AsyncIterator[int]:
    """Double what the counter says. `context=context` takes a stop, a kill and the deadline down with it."""
    async for number in context.client("demo.counter.count").generate(request, context=context):
        yield 2 * number


if __name__ == "__main__":
    middle.run()
