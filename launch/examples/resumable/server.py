"""An endpoint that survives its process: it yields checkpoints, and takes one back as `resume`."""

import asyncio
import os
from collections.abc import AsyncIterator

from mesh import Checkpoint, Component, Context

STEPS_PER_CHECKPOINT = 5

sums = Component("demo.sums")


@sums.endpoint
async def running(request: int, context: Context, resume: list[int] | None = None) -> AsyncIterator[int | Checkpoint]:
    """Yield the running sums 1, 3, 6, 10, ... of `request` numbers.

    The state is what the next number needs: how far we are, and the sum so far. It holds at the place in the stream
    where it is yielded: what came before it is never asked for again, what comes after it may be made a second time
    elsewhere, and must then come out the same.
    """
    done, total = resume or (0, 0)
    print(f"{os.getpid()} begins at {done}", flush=True)
    while done < request:
        done += 1
        total += done
        yield total
        if done % STEPS_PER_CHECKPOINT == 0:
            yield Checkpoint([done, total])
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    sums.run()
