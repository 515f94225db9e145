"""The chunk store protocol's server side, without a web framework: request in, answer out.

The caller authenticates, reads at most `wire.BODY_BYTES_MAX` of body (and refuses more with 413), and calls `answer`
in a thread. Whoever knows a digest may read the chunk: a digest is not guessable, and only manifests lead to others.
"""

import json
from typing import NamedTuple

from snapshots.chunks import HEADER, Chunk, decode, records
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import Corrupt, MissingChunk, NotFound, Refused, SnapshotError, StoreFull, Transient
from snapshots.trees import read_manifest
from snapshots.wire import BODY_BYTES_MAX, DIGESTS, JSON, PREFIX, RECORDS, split_digests


class Answer(NamedTuple):
    status: int
    media_type: str
    body: bytes


def answer(store: DirectoryChunkStore, method: str, path: str, body: bytes = b"") -> Answer:
    """Answer one request; `path` without the query string. Never raises what belongs to the client."""
    try:
        return _route(store, method, path.removeprefix(PREFIX), body)
    except SnapshotError as error:
        return _failed(error)


def _failed(error: SnapshotError) -> Answer:
    match error:
        case StoreFull():
            status, kind = 507, "full"
        case Transient():
            status, kind = 503, "transient"
        case MissingChunk() | NotFound():
            status, kind = 404, "missing"
        case Corrupt():
            status, kind = 500, "corrupt"
        case _:
            status, kind = 400, "refused"
    return _json({"error": str(error), "kind": kind}, status)


def _route(store: DirectoryChunkStore, method: str, path: str, body: bytes) -> Answer:  # noqa: PLR0911 (the table)
    if len(body) > BODY_BYTES_MAX:
        return _json({"error": f"body of {len(body)} bytes, at most {BODY_BYTES_MAX}", "kind": "refused"}, 413)
    match method, path.strip("/").split("/"):
        case "GET", ["store"]:
            stats = store.stats()
            facts = {"packs": stats.packs, "chunks": stats.chunks}
            facts |= {"raw_bytes": stats.raw_bytes, "stored_bytes": stats.stored_bytes}
            return _json({"generation": store.generation(), **facts})
        case "GET", ["generation"]:
            return _json({"generation": store.generation()})
        case "POST", ["chunks", "missing"]:
            return Answer(200, DIGESTS, b"".join(store.missing(split_digests(body))))
        case "POST", ["chunks", "get"]:
            return Answer(200, RECORDS, _records(store, split_digests(body)))
        case "POST", ["chunks"]:
            return _json({"stored_bytes": _put(store, body)})
        case "GET", ["chunks", name]:
            return Answer(200, RECORDS, _records(store, [_digest(name)]))
        case "GET", ["manifests", name]:
            return Answer(200, JSON, read_manifest(store, _digest(name)).encode())
        case "POST", ["commit"]:
            return _commit(store, body)
        case _:
            return _json({"error": f"no {method} {path[:100]}", "kind": "refused"}, 404)


def _records(store: DirectoryChunkStore, digests: list[bytes]) -> bytes:
    """As many as fit into one answer, at least one; the client asks again for the rest."""
    parts: list[bytes] = []
    size_bytes = 0
    for chunk in store.stored(list(dict.fromkeys(digests))):
        size_bytes += HEADER.size + len(chunk.payload)
        if parts and size_bytes > BODY_BYTES_MAX:
            break
        parts.append(chunk.record())
    return b"".join(parts)


def _put(store: DirectoryChunkStore, body: bytes) -> int:
    """Every chunk is checked before one is stored; the answer means that all are on stable storage."""
    chunks = {chunk.digest: chunk for chunk in _checked(body)}
    with store.writer() as writer:
        new = writer.missing(chunks.keys())
        writer.put([chunk for digest, chunk in chunks.items() if digest in new])
        writer.flush()
        return writer.stored_bytes


def _checked(body: bytes) -> list[Chunk]:
    try:
        chunks = list(records(body))
        for chunk in chunks:
            decode(chunk)
    except Corrupt as error:
        raise Refused(str(error)) from error
    return chunks


def _commit(store: DirectoryChunkStore, body: bytes) -> Answer:
    try:
        asked = json.loads(body)
        root, generation = _digest(str(asked["root"])), str(asked["generation"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"a commit is {{root, generation}}: {error}") from error
    done = store.commit(root, generation)
    return _json({"generation": store.generation()}, 200 if done else 409)


def _digest(name: str) -> bytes:
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        digest = b""
    if len(digest) != 32 or digest.hex() != name:
        raise Refused(f"{name[:80]!r} is no digest (64 lower-case hexadecimal digits)")
    return digest


def _json(body: dict[str, str | int], status: int = 200) -> Answer:
    return Answer(status, JSON, json.dumps(body).encode())
