"""The provider's key never enters a machine, and the machine's own token is worth nothing once its epoch is over."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psycopg
import pytest
from psycopg import sql

from services.rehearsal.app import running
from tests.harness.hub import RunningHub, running_hub

KEY = "sk-ant-test-0123456789abcdef0123456789abcdef"
PRICE = {
    "model": "rehearsal-*", "provider": "anthropic", "input": "1", "output": "1", "cache_read": "1",
    "cache_write_5m": "1", "cache_write_1h": "1", "currency": "CAD",
}  # fmt: skip
NOSY = """
name = "nosy"
match = "nosy"

[[turns]]
say = "I look at everything that I can see."

[[turns.do]]
run = "env > seen.txt; cat /proc/[0-9]*/environ >> seen.txt; true"

[[turns.do]]
run = "grep -rls sk-ant-tes[t] /home /tmp /etc > found.txt; true"

[[turns]]
say = "That was all."
"""


@pytest.mark.timeout(180)
async def test_the_providers_key_is_nowhere_in_the_machine_and_the_token_dies_with_its_epoch(tmp_path: Path) -> None:
    (tmp_path / "nosy.toml").write_text(NOSY)
    (tmp_path / "project").mkdir()
    async with running([tmp_path / "nosy.toml"]) as (rehearsal, url):
        settings = {
            "AUTOVIBE_ANTHROPIC_API_KEY": KEY,
            "AUTOVIBE_ANTHROPIC_URL": url,
            "AUTOVIBE_PRICES_OWN": json.dumps([PRICE]),
            "AUTOVIBE_PRICES_PACKAGED": "false",
        }
        async with running_hub(settings=settings) as hub:
            await hub.ok("project", "create", "shop", "--from", str(tmp_path / "project"), "--budget", "5CAD")
            run = await hub.ok(
                *("run", "shop", "be nosy", "--type", "claude_api", "--model", "rehearsal-sonnet", "--budget", "1CAD"),
                timeout_s=90,
            )
            assert rehearsal.credentials == {KEY}, "the provider is shown the real key, and nothing else"
            machine = (await hub.ok("machine", "ls", "--json")).only()
            checkpoint = str(machine["last_checkpoint_uuid"])
            await hub.ok("checkpoint", "export", checkpoint, "--to", str(tmp_path / "out"))
            seen = (tmp_path / "out" / "seen.txt").read_text(errors="replace")
            token = next(word for word in _words(seen) if word.startswith("avm_"))
            told = [run.out, run.err, (await hub.ok("machine", "logs", str(machine["uuid"]), "--raw")).out]
            told += await _rows(hub)
            told += [file.read_text(errors="replace") for file in (tmp_path / "out").rglob("*") if file.is_file()]
            assert all(KEY not in text for text in told)
            assert (tmp_path / "out" / "found.txt").read_text() == ""
            assert await _status(hub, token) == 401
            assert await _status(hub, "avm_" + "0" * 64) == 401


def _words(text: str) -> Iterator[str]:
    for line in text.replace("\0", "\n").splitlines():
        yield line.rpartition("=")[2].strip()


async def _rows(hub: RunningHub) -> list[str]:
    def read() -> list[str]:
        with psycopg.connect(hub.context.database_url) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            return [
                str(row[0])
                for (table,) in tables
                for row in connection.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(table)))
            ]

    return await asyncio.to_thread(read)


async def _status(hub: RunningHub, token: str) -> int:
    body = {"model": "rehearsal-sonnet", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{hub.context.gateway_url}/v1/messages", json=body, headers={"Authorization": f"Bearer {token}"}
        ) as answer,
    ):
        return answer.status
