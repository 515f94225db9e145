"""A base URL swapped by a file in the workspace, or by the project's environment: calls go to the gateway or nowhere."""

import json
from typing import cast

import pytest

from services.spawner.own_python import compile_once
from tests.agent.hostile import NAMES, elsewhere, pointing_to
from tests.agent.provider import call, provider, text
from tests.agent.stack import Stack
from tests.agent.test_claude_api import TOKEN, run, said, spec_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
ASK = """
for url in {url} http://127.0.0.1:8080; do
    host=${{url#http://}}
    (exec 3<>/dev/tcp/${{host%:*}}/${{host##*:}}) 2>/dev/null && echo "$url open" || echo "$url closed"
done
(exec 3<>/dev/tcp/192.0.2.1/80) 2>/dev/null && echo beyond open || echo beyond closed
"""


async def test_an_agent_asks_its_gateway_whatever_the_workspace_and_the_environment_say(stack: Stack) -> None:
    assert compile_once()
    async with elsewhere() as other:
        tries = call("toolu_1", "bash", command=ASK.format(url=other.url))
        async with provider([tries], [text("Done.")]) as gateway:
            spec = spec_of(stack, gateway).model_copy(
                update={"files": pointing_to(other.url), "env": dict.fromkeys(NAMES[:4], other.url)}
            )
            end = await run(stack, spec)
            assert (end.outcome, len(gateway.sent)) == ("succeeded", 2)
            assert [headers["Authorization"] for headers in gateway.headers] == [f"Bearer {TOKEN}"] * 2
            (result,) = cast("list[dict[str, object]]", said(gateway.sent[1])[-1]["content"])
            heard = json.dumps(result["content"])
            assert f"{other.url} closed" in heard
            assert "beyond closed" in heard
            assert "http://127.0.0.1:8080 open" in heard, "the way to the gateway is the only one"
            assert other.connections == 0
