"""Takes a long stream and checks every item of it: `python client.py [COUNT]`."""

import asyncio
import sys

from mesh import connect


async def main(count: int) -> None:
    """Whatever happens to the servers meanwhile, each sum must come once, in order."""
    async with connect() as mesh:
        client = mesh.client("demo.sums.running")
        await client.ready(timeout_s=10)
        stream = client.generate(count)
        got = 0
        async for total in stream:
            got += 1
            assert total == got * (got + 1) // 2, f"item {got} is {total}: an item was lost or came twice"
            if got % 50 == 0:
                print(f"{got} items, by instance {stream.instances[-1]:016x}", flush=True)
        assert got == count, f"{got} of {count} items"
        print(f"all {got} items, each once, from {stream.attempts} instances")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
