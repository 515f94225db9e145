"""Start a server on a directory, say so, and wait to be killed: the parent in the tests of kill -9."""

import asyncio
import sys
from pathlib import Path

from cli.stack.nats import EmbeddedNats
from cli.stack.postgres import EmbeddedPostgres


async def main(kind: str, directory: Path) -> None:
    async with EmbeddedNats(directory) if kind == "nats" else EmbeddedPostgres(directory) as server:
        address = server.url if isinstance(server, EmbeddedNats) else server.dsn()
        sys.stdout.write(f"{server.pid} {address}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
