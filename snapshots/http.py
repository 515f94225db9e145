"""The chunk store behind an HTTP endpoint, for machines on other hosts.

The protocol (version 1, bearer token, bodies at most 8 MiB, digests as 32 bytes each, chunks as records of
`snapshots.chunks`):

    GET  /v1/store              {"generation", "packs", "chunks", "raw_bytes", "stored_bytes"}
    GET  /v1/generation         {"generation"}
    POST /v1/chunks/missing     digests -> those of them that are not there
    POST /v1/chunks             records -> {"stored_bytes"}; all are durable when it answers
    POST /v1/chunks/get         digests -> records, as many as fit; ask again for the rest
    GET  /v1/chunks/<hex>       -> one record
    GET  /v1/manifests/<hex>    -> the manifest's JSON
    POST /v1/commit             {"root", "generation"} -> 200, or 409 when a sweep came between
    errors                      {"error", "kind": refused | missing | corrupt | transient | full}

Every request may be repeated. The server's side is `snapshots.endpoint`.
"""

import http.client
import json
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

from snapshots.chunks import HEADER, Chunk, decode, records
from snapshots.errors import Corrupt, MissingChunk, Refused, StoreFull, StoreUnreachable
from snapshots.port import StoreStats, SweepReport
from snapshots.wire import BODY_BYTES_MAX, DIGESTS, DIGESTS_MAX, JSON, PREFIX, RECORDS, split_digests

ATTEMPTS_MAX = 4
PAUSE_S = 0.1
GET_DIGESTS = 1024
PUT_BYTES = 3 << 20
"""A request is sent when this much has been put; the last chunk may have added 4 MiB, and 8 are allowed."""


class HttpChunkStore:
    """Talks to one endpoint; a connection per thread, kept open.

    Args:
        timeout_s: For one request; four are tried while the server is away or says it is busy.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(f"{url!r} is no http or https URL of a chunk store")
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + PREFIX
        self._token, self._timeout_s = token, timeout_s
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generation(self) -> str:
        return str(self._json("GET", "/generation")["generation"])

    def missing(self, digests: Collection[bytes]) -> set[bytes]:
        wanted = list(digests)
        found: set[bytes] = set()
        for start in range(0, len(wanted), DIGESTS_MAX):
            body = b"".join(wanted[start : start + DIGESTS_MAX])
            found.update(split_digests(self._request("POST", "/chunks/missing", body, DIGESTS)[1]))
        return found

    def get(self, digest: bytes) -> bytes:
        for _, raw in self.get_many((digest,)):
            return raw
        raise MissingChunk(f"chunk {digest.hex()} is not in the store")

    def get_many(self, digests: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        left = dict.fromkeys(digests)
        while left:
            asked = list(left)[:GET_DIGESTS]
            got = 0
            for chunk in records(self._request("POST", "/chunks/get", b"".join(asked), DIGESTS)[1]):
                if chunk.digest in left:
                    del left[chunk.digest]
                    got += 1
                    yield chunk.digest, decode(chunk)
            if not got:
                raise MissingChunk(f"the store answered none of {len(asked)} chunks, e.g. {asked[0].hex()}")

    def manifest(self, snapshot: str) -> bytes:
        """The manifest's JSON."""
        return self._request("GET", f"/manifests/{snapshot}")[1]

    def writer(self) -> "HttpWriter":
        return HttpWriter(self)

    def commit(self, root: bytes, generation: str) -> bool:
        body = json.dumps({"root": root.hex(), "generation": generation}).encode()
        return self._request("POST", "/commit", body, JSON, also=409)[0] == 200

    def sweep(self, live: Collection[bytes], grace_s: float) -> SweepReport:
        raise Refused(
            f"asked to sweep {len(live)} live snapshots (grace {grace_s} s) over HTTP: sweep where the store is"
        )

    def stats(self) -> StoreStats:
        body = self._json("GET", "/store")
        packs, chunks, raw, stored = (int(str(body[k])) for k in ("packs", "chunks", "raw_bytes", "stored_bytes"))
        return StoreStats(packs=packs, chunks=chunks, raw_bytes=raw, stored_bytes=stored)

    def send(self, body: bytes) -> int:
        """Upload records; the bytes that were new."""
        answer = json.loads(self._request("POST", "/chunks", body, RECORDS)[1])
        return int(answer["stored_bytes"])

    def _json(self, method: str, path: str) -> dict[str, object]:
        return cast("dict[str, object]", json.loads(self._request(method, path)[1]))

    def _request(
        self, method: str, path: str, body: bytes = b"", media_type: str = JSON, *, also: int = 200
    ) -> tuple[int, bytes]:
        reason = ""
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                status, answer = self._once(method, path, body, media_type)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                reason = f"{type(error).__name__}: {error}"
                continue
            if status in (200, also):
                return status, answer
            if status not in (429, 502, 503, 504):
                raise _error(status, answer)
            reason = f"{status} {answer[:200]!r}"
        raise StoreUnreachable(f"{method} {path} at {self._host}: {ATTEMPTS_MAX} attempts, the last: {reason}")

    def _once(self, method: str, path: str, body: bytes, media_type: str) -> tuple[int, bytes]:
        connection = self._connection()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": media_type}
        connection.request(method, self._path + path, body or None, headers)
        response = connection.getresponse()
        answer = response.read(BODY_BYTES_MAX + 1)
        if len(answer) > BODY_BYTES_MAX:
            self._drop()
            raise Corrupt(f"{method} {path} at {self._host}: the answer is larger than {BODY_BYTES_MAX} bytes")
        return response.status, answer

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            connection = kind(self._host, self._port, timeout=self._timeout_s)
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        return connection

    def _drop(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            with self._lock:
                if connection in self._connections:
                    self._connections.remove(connection)
            self._local.connection = None


def _error(status: int, answer: bytes) -> Exception:
    try:
        body = json.loads(answer)
        text, kind = str(body["error"]), str(body["kind"])
    except (ValueError, KeyError, TypeError):
        text, kind = f"status {status}: {answer[:200]!r}", ""
    kinds = {"missing": MissingChunk, "corrupt": Corrupt, "full": StoreFull}
    return kinds.get(kind, Refused)(f"chunk store endpoint: {text}")


class HttpWriter:
    """Collects records into bodies; whichever thread fills one sends it."""

    def __init__(self, store: HttpChunkStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._pending: dict[bytes, bytes] = {}
        self._pending_bytes = 0
        self._stored_bytes = 0

    @property
    def stored_bytes(self) -> int:
        return self._stored_bytes

    def missing(self, digests: Collection[bytes]) -> set[bytes]:
        with self._lock:
            unknown = [digest for digest in digests if digest not in self._pending]
        return self._store.missing(unknown) if unknown else set()

    def put(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            with self._lock:
                if chunk.digest in self._pending:
                    continue
                self._pending[chunk.digest] = chunk.record()
                self._pending_bytes += HEADER.size + len(chunk.payload)
                body = self._take() if self._pending_bytes >= PUT_BYTES else b""
            self._send(body)

    def flush(self) -> None:
        with self._lock:
            body = self._take()
        self._send(body)

    def _take(self) -> bytes:
        body = b"".join(self._pending.values())
        self._pending, self._pending_bytes = {}, 0
        return body

    def _send(self, body: bytes) -> None:
        if body:
            stored_bytes = self._store.send(body)
            with self._lock:
                self._stored_bytes += stored_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._pending = {}
