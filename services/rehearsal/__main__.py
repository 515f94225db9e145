"""Run the rehearsal model alone: `python -m services.rehearsal examples/rehearsal`."""

import argparse
import asyncio
import sys
from pathlib import Path

from services.rehearsal.app import running
from services.rehearsal.script import BadScript


async def _serve(scripts: list[Path], host: str, port: int) -> None:
    async with running(scripts, host, port) as (_, url):
        sys.stdout.write(f"rehearsal model on {url}; it plays scripts and understands nothing\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.rehearsal", description=__doc__)
    parser.add_argument("scripts", nargs="+", type=Path, help="TOML files, or directories of them")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default=0, type=int, help="0: a free one")
    asked = parser.parse_args()
    try:
        asyncio.run(_serve(asked.scripts, asked.host, asked.port))
    except (BadScript, OSError) as error:
        sys.stderr.write(f"rehearsal: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
