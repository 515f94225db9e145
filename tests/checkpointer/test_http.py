"""Chunks over HTTP: by key, bounded, and the same snapshots on both sides."""

import asyncio
import hashlib
import http.client
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from events import address as at
from events.credential import CredentialIssued, CredentialRevoked
from events.fresh import uuid7
from events.ids import HUB
from events.words import Role
from snapshots.capture import capture
from snapshots.errors import SnapshotError
from snapshots.http import HttpChunkStore
from snapshots.restore import restore
from snapshots.wire import BODY_BYTES_MAX
from tests.checkpointer.world import World
from tests.harness import eventually


async def a_key(world: World, role: Role) -> tuple[str, object]:
    key, credential_id = secrets.token_urlsafe(32), uuid7()
    digest = hashlib.sha256(key.encode()).hexdigest()
    issued = CredentialIssued(kind="api_key", name=role.value, role=role, key_sha256=digest)
    await world.happen(at.credential(HUB, credential_id), issued)
    return key, credential_id


@asynccontextmanager
async def endpoint(world: World) -> AsyncGenerator[str]:
    async with world.checkpointer() as checkpointer:
        yield f"http://127.0.0.1:{checkpointer.store_port}"


def ask(url: str, method: str, path: str, key: str | None = None, body: bytes = b"", length: int | None = None) -> int:  # noqa: PLR0917
    """Send one request and return its status."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.putrequest(method, path)
        connection.putheader("Content-Length", str(len(body) if length is None else length))
        if key is not None:
            connection.putheader("Authorization", f"Bearer {key}")
        connection.endheaders(body)
        return connection.getresponse().status
    finally:
        connection.close()


async def test_what_is_uploaded_can_be_restored_elsewhere(world: World, tmp_path: Path) -> None:
    key, _ = await a_key(world, Role.OPERATOR)
    source = tmp_path / "source" / "workspace"
    source.mkdir(parents=True)
    (source / "a.txt").write_text("hello" * 1_000)

    def there_and_back(url: str) -> str:
        with HttpChunkStore(url, key) as store:
            snapshot = capture({"workspace": source}, store)
            restore(snapshot.digest, tmp_path / "back", store)
            return snapshot.digest

    async with endpoint(world) as url:
        digest = await asyncio.to_thread(there_and_back, url)
    assert (tmp_path / "back" / "workspace" / "a.txt").read_text() == "hello" * 1_000
    assert not world.store.missing([bytes.fromhex(digest)])


async def test_without_a_good_key_nothing_is_said(world: World) -> None:
    key, credential_id = await a_key(world, Role.VIEWER)
    async with endpoint(world) as url:
        for odd in (None, "", "guess", key + "x", "é" * 10_000):
            spelled = None if odd is None else odd.encode().hex() if not odd.isascii() else odd
            assert await asyncio.to_thread(ask, url, "GET", "/v1/store", spelled) == 401
        assert await asyncio.to_thread(ask, url, "GET", "/v1/store", key) == 200
        await world.happen(at.credential(HUB, credential_id), CredentialRevoked())
        await eventually(lambda: asyncio.to_thread(lambda: ask(url, "GET", "/v1/store", key) == 401))


async def test_a_viewer_may_read_but_not_upload(world: World) -> None:
    key, _ = await a_key(world, Role.VIEWER)
    snapshot = world.snapshot(a="1")
    async with endpoint(world) as url:
        assert await asyncio.to_thread(ask, url, "GET", f"/v1/manifests/{snapshot.digest}", key) == 200
        assert await asyncio.to_thread(ask, url, "POST", "/v1/chunks/missing", key) == 200
        for path in ("/v1/chunks", "/v1/chunks/", "/v1/commit"):
            assert await asyncio.to_thread(ask, url, "POST", path, key) == 403


async def test_bad_requests_are_refused_and_never_the_servers_fault(world: World) -> None:
    key, _ = await a_key(world, Role.ADMIN)
    async with endpoint(world) as url:
        for expected, method, path, body in (
            (400, "POST", "/v1/chunks", b"not a record"),
            (400, "POST", "/v1/chunks/missing", b"odd"),
            (400, "GET", "/v1/chunks/xyz", b""),
            (404, "GET", f"/v1/manifests/{'a' * 64}", b""),
            (404, "GET", "/v1/../../etc/passwd", b""),
            (404, "GET", "/", b""),
            (400, "POST", "/v1/commit", b"[" * 10_000),
        ):
            assert await asyncio.to_thread(ask, url, method, path, key, body) == expected, path


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(world: World) -> None:
    key, _ = await a_key(world, Role.ADMIN)
    async with endpoint(world) as url:
        assert await asyncio.to_thread(ask, url, "POST", "/v1/chunks", key, b"", BODY_BYTES_MAX + 1) == 413


async def test_a_client_with_a_bad_key_gets_an_error_it_can_show(world: World) -> None:
    def refused(url: str) -> bool:
        with HttpChunkStore(url, "guess") as store:
            try:
                store.stats()
            except SnapshotError as error:
                return "API key" in str(error)
        return False

    async with endpoint(world) as url:
        assert await asyncio.to_thread(refused, url)
