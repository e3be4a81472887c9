"""Calls the greeting endpoint and prints what comes."""

import asyncio
import sys

from mesh import connect


async def main(names: list[str]) -> None:
    """Wait for a server, then ask it."""
    async with connect() as mesh:
        client = mesh.client("demo.hello.generate")
        await client.ready(timeout_s=10)
        async for item in client.generate({"names": names}):
            print(item)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["world", "mesh", "you"]))
