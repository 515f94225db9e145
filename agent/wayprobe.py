"""Proves on this host that a sandbox's way out leads to the gateway and nowhere else; the hypervisor's self-test runs it.

On a line of standard input `{"launcher": [...], "closed": [ports]}`; on standard output `gateway=open` or why not, and
`reached=<port>` for every port of the host's loopback that the sandbox could connect to.
"""

import asyncio
import json
import os
import sys
from typing import TypedDict

from agent.process import RunnerProcess
from agent.runners.port import GATEWAY_PORT, Program
from agent.wayout import Gate, NoWayOut, listen_beside, way_out

PROBE_DEADLINE_S = 15.0
_SCRIPT = """
for port in {closed}; do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && echo "reached=$port"; done
exec 3<>"/dev/tcp/127.0.0.1/{gateway}" && echo hello >&3 && IFS= read -r answer <&3 && echo "gateway=$answer"
exit 0
"""


class Asked(TypedDict):
    """What is to be tried."""

    launcher: list[str]
    closed: list[int]


async def probe(asked: Asked) -> bytes:
    """Return what the sandbox could reach, as lines."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"open\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    gateway = server.sockets[0].getsockname()[1]
    closed = " ".join(map(str, [*asked["closed"], gateway]))
    program = Program(script=_SCRIPT.format(closed=closed, gateway=GATEWAY_PORT))
    gate = Gate()
    process = RunnerProcess(asked["launcher"], program, {}, "/", gate.theirs)
    try:
        async with asyncio.timeout(PROBE_DEADLINE_S):
            if (pid := await gate.arrived()) is None:
                raise NoWayOut("the sandbox ended before it began")
            async with way_out(listen_beside(pid, GATEWAY_PORT), f"http://127.0.0.1:{gateway}"):
                gate.open()
                await process.wait()
        return os.read(process.stdout, 65_536)
    finally:
        await process.close()
        gate.close()
        server.close()


def main() -> int:
    try:
        print(asyncio.run(probe(json.loads(sys.stdin.readline()))).decode(errors="replace"))  # noqa: T201 -- its answer
    except NoWayOut as reason:
        print(f"gateway={reason}")  # noqa: T201 -- its answer
    except TimeoutError:
        print("gateway=late")  # noqa: T201 -- its answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
