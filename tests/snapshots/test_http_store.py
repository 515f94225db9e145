import json
import os
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from snapshots.capture import capture
from snapshots.chunks import digest_of
from snapshots.directory import DirectoryChunkStore
from snapshots.endpoint import answer
from snapshots.errors import Refused, StoreUnreachable
from snapshots.http import HttpChunkStore
from snapshots.wire import BODY_BYTES_MAX
from tests.snapshots.store_contract import ChunkStoreContract, chunk, forged, put

TOKEN = "let-me-in"


@contextmanager
def served(store: DirectoryChunkStore) -> Generator[str]:
    """The endpoint as a service would serve it, on a free port of loopback."""

    async def handle(request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Response(json.dumps({"error": "who are you", "kind": "refused"}), 401)
        body = await request.body()
        status, media_type, raw = await run_in_threadpool(answer, store, request.method, request.url.path, body)
        return Response(raw, status, media_type=media_type)

    app = Starlette(routes=[Route("/{path:path}", handle, methods=["GET", "POST"])])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", loop="asyncio"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        listener.listen(64)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[DirectoryChunkStore]:
    with DirectoryChunkStore(tmp_path / "behind") as store:
        yield store


@pytest.fixture
def url(behind: DirectoryChunkStore) -> Iterator[str]:
    with served(behind) as url:
        yield url


class TestHttpChunkStore(ChunkStoreContract):
    @pytest.fixture
    def store(self, url: str) -> Iterator[HttpChunkStore]:
        with HttpChunkStore(url, TOKEN) as store:
            yield store


def test_a_wrong_token_is_refused_and_not_retried(url: str) -> None:
    with HttpChunkStore(url, "guess") as store, pytest.raises(Refused, match="who are you"):
        store.generation()


def test_a_server_that_is_away_is_said_to_be_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with HttpChunkStore(url, TOKEN) as store, pytest.raises(StoreUnreachable, match="4 attempts"):
            store.generation()


def test_a_url_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(Refused, match="no http or https URL"):
        HttpChunkStore("file:///etc", TOKEN)


def test_sweeping_is_left_to_where_the_store_is(url: str) -> None:
    with HttpChunkStore(url, TOKEN) as store, pytest.raises(Refused, match="where the store is"):
        store.sweep([], 60)


def test_a_forged_chunk_is_refused_with_all_that_came_with_it(behind: DirectoryChunkStore) -> None:
    body = chunk(b"honest").record() + forged(b"forged").record()
    got = answer(behind, "POST", "/v1/chunks", body)
    assert got.status == 400
    assert behind.stats().chunks == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/chunks/zz", b"", 400),
        ("GET", "/v1/chunks/" + "A" * 64, b"", 400),
        ("GET", "/v1/chunks/" + "a" * 64, b"", 404),
        ("GET", "/v1/manifests/" + "a" * 64, b"", 404),
        ("GET", "/v1/../../etc/passwd", b"", 404),
        ("PUT", "/v1/chunks", b"", 404),
        ("POST", "/v1/chunks", b"x" * 50, 400),
        ("POST", "/v1/chunks/get", b"x", 400),
        ("POST", "/v1/chunks/missing", b"x" * 33, 400),
        ("POST", "/v1/commit", b"[1]", 400),
        ("POST", "/v1/commit", b"{}", 400),
        ("POST", "/v1/commit", b"\xff" * 10, 400),
        ("POST", "/v1/commit", b"[" * 100_000, 400),
        ("POST", "/v1/chunks", b"x" * (BODY_BYTES_MAX + 1), 413),
    ],
)
def test_nonsense_gets_an_answer_that_says_so(
    behind: DirectoryChunkStore, method: str, path: str, body: bytes, status: int
) -> None:
    got = answer(behind, method, path, body)
    assert got.status == status
    assert json.loads(got.body)["error"]


def test_a_zstd_bomb_is_refused_before_it_is_unpacked(behind: DirectoryChunkStore) -> None:
    honest = chunk(b"\0" * (1 << 20))
    lying = honest._replace(raw_bytes=len(honest.payload) + 1).record()
    assert answer(behind, "POST", "/v1/chunks", lying).status == 400


def test_a_manifest_is_readable_as_json(url: str, behind: DirectoryChunkStore, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    snapshot = capture({"workspace": tmp_path / "w"}, behind)
    with HttpChunkStore(url, TOKEN) as store:
        assert json.loads(store.manifest(snapshot.digest))["roots"][0]["name"] == "workspace"


def test_what_one_machine_uploads_another_process_reads(url: str, behind: DirectoryChunkStore) -> None:
    raw = os.urandom(100)
    with HttpChunkStore(url, TOKEN) as store:
        put(store, raw)
    with DirectoryChunkStore(behind.path) as other:
        assert other.get(digest_of(raw)) == raw
