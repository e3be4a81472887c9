"""The end of the chain: counts, slowly, and says what reaches it."""

import asyncio
from collections.abc import AsyncIterator

from mesh import Component, Context

counter = Component("demo.counter")


@counter.endpoint
async def count(request: int, context: Context) -> AsyncIterator[int]:
    """Count to `request`. A stop ends it between two numbers; a kill cancels it wherever it waits."""
    number = 0
    try:
        while number < request:
            if context.stopped:
                print(f"stopped at {number}", flush=True)
                return
            number += 1
            yield number
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        print(f"killed at {number}" if context.killed else "cancelled", flush=True)
        raise


if __name__ == "__main__":
    counter.run()
