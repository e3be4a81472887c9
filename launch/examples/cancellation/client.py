"""Asks the middle, takes three numbers, then ends it: `python client.py [stop|kill|leave|deadline]`."""

import asyncio
import sys

from mesh import Context, connect, failures


async def main(how: str) -> None:
    """Take some, then end it."""
    async with connect() as mesh:
        client = mesh.client("demo.middle.count")
        await client.ready(timeout_s=10)
        context = Context(timeout_s=2 if how == "deadline" else None)
        got = 0
        try:
            async for number in client.generate(1_000, context=context):
                got += 1
                print(number, flush=True)
                if got == 3:
                    if how == "leave":
                        break
                    if how in ("stop", "kill"):
                        getattr(context, how)()
            print(f"ended cleanly after {got}")
        except failures.StreamKilled:
            print(f"killed after {got}")
        except failures.DeadlineExceeded:
            print(f"out of time after {got}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "stop"))
