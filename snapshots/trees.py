"""What a snapshot is: a manifest that names trees, trees that name files' chunks and other trees; all of them chunks.

A directory's tree is one chunk of entries sorted by name, so an unchanged directory costs nothing and a change costs
the directories above it. A tree of a very large directory is cut into parts where the names say so (not at offsets:
one new name must not shift all parts). The manifest is JSON and holds content only: the same directories give the
same digest, whoever captured them and when.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from snapshots.chunks import CHUNK_BYTES, DIGEST_BYTES, RAW_BYTES_MAX, digest_of
from snapshots.errors import Corrupt, HostileManifest
from snapshots.port import ChunkStore

FILE, DIRECTORY, LINK = b"f", b"d", b"l"
ENTRY = struct.Struct("<cHqQQHI")  # kind, mode, mtime_ns, size, count, name length, body length; then name, body
LEAF_MAGIC, PARTS_MAGIC = b"avtree1\n", b"avpart1\n"
PART_BYTES = 1 << 20
PART_ENTRIES_LOG2 = 12
NAME_BYTES_MAX = 255
DEPTH_MAX = 256
MANIFEST_BYTES_MAX = 64 << 10
FORMAT = "autovibe-snapshot/1"


class Entry(NamedTuple):
    """A name in a directory.

    `size` is a file's bytes or a directory's files' bytes in all; `files` is the files and links below a directory.
    `body` is a file's chunk digests one after the other, a directory's tree digest, or a link's target.
    """

    kind: bytes
    mode: int
    mtime_ns: int
    size: int
    files: int
    name: bytes
    body: bytes

    @property
    def chunks(self) -> list[bytes]:
        return [self.body[at : at + DIGEST_BYTES] for at in range(0, len(self.body), DIGEST_BYTES)]


@dataclass(frozen=True, slots=True)
class Root:
    """One captured directory, by the name it is restored under."""

    name: str
    mode: int
    mtime_ns: int
    tree: bytes
    file_count: int
    size_bytes: int

    def entry(self) -> Entry:
        name = self.name.encode()
        return Entry(DIRECTORY, self.mode, self.mtime_ns, self.size_bytes, self.file_count, name, self.tree)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A snapshot's roots, sorted by name."""

    roots: tuple[Root, ...]

    @property
    def file_count(self) -> int:
        return sum(root.file_count for root in self.roots)

    @property
    def size_bytes(self) -> int:
        return sum(root.size_bytes for root in self.roots)

    def encode(self) -> bytes:
        roots = [
            {
                "name": root.name,
                "mode": root.mode,
                "mtime_ns": root.mtime_ns,
                "tree": root.tree.hex(),
                "file_count": root.file_count,
                "size_bytes": root.size_bytes,
            }
            for root in self.roots
        ]
        body = {"format": FORMAT, "file_count": self.file_count, "size_bytes": self.size_bytes, "roots": roots}
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def decode_manifest(raw: bytes) -> Manifest:
    """
    Raises:
        HostileManifest: It is not what `Manifest.encode` makes, byte for byte.
    """
    try:
        body = cast("dict[str, object]", json.loads(raw)) if len(raw) <= MANIFEST_BYTES_MAX else {}
        if not isinstance(body, dict) or body.get("format") != FORMAT:  # pyright: ignore[reportUnnecessaryIsInstance] (foreign bytes)
            raise HostileManifest(f"not a snapshot manifest: {raw[:60]!r}")
        manifest = Manifest(tuple(_root(root) for root in cast("list[dict[str, object]]", body["roots"])))
        names = [root.name for root in manifest.roots]
        if sorted(set(names)) != names or manifest.encode() != raw:
            raise HostileManifest("manifest is not in its canonical form")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HostileManifest(f"malformed manifest: {error}") from error
    return manifest


def _root(body: dict[str, object]) -> Root:
    name, tree = str(body["name"]), bytes.fromhex(str(body["tree"]))
    numbers = [cast("int", body[key]) for key in ("mode", "mtime_ns", "file_count", "size_bytes")]
    if not all(type(number) is int for number in numbers):
        raise HostileManifest("manifest numbers must be integers")
    mode, mtime_ns, file_count, size_bytes = numbers
    entry = Entry(DIRECTORY, mode, mtime_ns, size_bytes, file_count, name.encode(), tree)
    check(entry, min(size_bytes, file_count))
    return Root(name, mode, mtime_ns, tree, file_count, size_bytes)


def encode_tree(entries: Iterable[Entry]) -> list[bytes]:
    """The tree's chunks, its own (whose digest names the tree) last; `entries` must be sorted by name."""
    parts: list[bytes] = []
    part: list[bytes] = []
    part_bytes = 0
    for kind, mode, mtime_ns, size, count, name, body in entries:
        part += (ENTRY.pack(kind, mode, mtime_ns, size, count, len(name), len(body)), name, body)
        part_bytes += ENTRY.size + len(name) + len(body)
        if part_bytes > PART_BYTES or (len(part) > 3000 and zlib.crc32(name) >> (32 - PART_ENTRIES_LOG2) == 0):
            parts.append(LEAF_MAGIC + b"".join(part))
            part, part_bytes = [], 0
    if part or not parts:
        parts.append(LEAF_MAGIC + b"".join(part))
    if len(parts) == 1:
        return parts
    return [*parts, PARTS_MAGIC + b"".join(map(digest_of, parts))]


def decode_tree(raw: bytes, previous: bytes = b"") -> list[Entry]:
    """The entries of a tree that is one chunk, or of one part; names must come after `previous`.

    Raises:
        HostileManifest: Anything that would be unsafe or ambiguous to restore.
    """
    entries: list[Entry] = []
    position, end = len(LEAF_MAGIC), len(raw)
    if raw[:position] != LEAF_MAGIC:
        raise HostileManifest(f"not a tree: {raw[:16]!r}")
    while position < end:
        if position + ENTRY.size > end:
            raise HostileManifest("tree ends inside an entry")
        kind, mode, mtime_ns, size, count, name_length, body_length = ENTRY.unpack_from(raw, position)
        at = position + ENTRY.size
        position = at + name_length + body_length
        name = raw[at : at + name_length]
        entry = Entry(kind, mode, mtime_ns, size, count, name, raw[at + name_length : position])
        check(entry, end - position)
        if name <= previous:
            raise HostileManifest(f"names are not in order: {name!r} after {previous!r}")
        previous = name
        entries.append(entry)
    return entries


def check(entry: Entry, left: int) -> None:
    """Refuse what cannot be restored as a plain name inside its directory; `left` below 0 means the tree was cut."""
    kind, mode, mtime_ns, size, count, name, body = entry
    if not name or len(name) > NAME_BYTES_MAX or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise HostileManifest(f"name {name[:80]!r} cannot stand in a directory")
    if left < 0 or not 0 <= mode <= 0o777 or not -(1 << 63) <= mtime_ns < 1 << 63:
        raise HostileManifest(f"entry {name!r}: mode {mode:o} is not a permission, or the tree is cut")
    if kind == FILE:
        good = len(body) == DIGEST_BYTES * -(-size // CHUNK_BYTES) and count == 1
    elif kind == DIRECTORY:
        good = len(body) == DIGEST_BYTES
    else:
        good = kind == LINK and 0 < len(body) < 4096 and b"\0" not in body and count == 1
    if not good:
        raise HostileManifest(f"entry {name!r} of kind {kind!r}: size {size}, count {count} and body do not agree")


def read_manifest(store: ChunkStore, snapshot: bytes) -> Manifest:
    return decode_manifest(store.get(snapshot))


def read_tree(store: ChunkStore, digest: bytes) -> Iterator[list[Entry]]:
    """A directory's entries in order, part by part."""
    raw = store.get(digest)
    previous = b""
    for part in parts_of(raw):
        entries = decode_tree(raw if part is None else store.get(part), previous)
        if entries:
            previous = entries[-1].name
        yield entries


def parts_of(raw: bytes) -> Sequence[bytes | None]:
    """The digests of a tree's parts, or a single None when the tree is in one piece."""
    if not raw.startswith(PARTS_MAGIC):
        return (None,)
    body = raw[len(PARTS_MAGIC) :]
    if not body or len(body) % DIGEST_BYTES or len(raw) > RAW_BYTES_MAX:
        raise HostileManifest(f"a tree of {len(body)} bytes of part digests")
    return [body[at : at + DIGEST_BYTES] for at in range(0, len(body), DIGEST_BYTES)]


def read_trees(store: ChunkStore, digests: Sequence[bytes]) -> dict[bytes, list[Entry]]:
    """Many directories at once; for those the caller knows to be few or small."""
    found: dict[bytes, list[Entry]] = {}
    for digest, raw in store.get_many(digests):
        if raw.startswith(PARTS_MAGIC):
            found[digest] = [entry for entries in read_tree(store, digest) for entry in entries]
        else:
            found[digest] = decode_tree(raw)
    return found


def iterate_trees(store: ChunkStore, digests: Sequence[bytes]) -> Iterator[tuple[bytes, list[Entry]]]:
    """Many directories, a large one part by part: the same digest comes once for each of its parts."""
    for digest, raw in store.get_many(digests):
        if raw.startswith(PARTS_MAGIC):
            for entries in read_tree(store, digest):
                yield digest, entries
        else:
            yield digest, decode_tree(raw)


def reachable(store: ChunkStore, snapshot: bytes, seen: set[bytes] | frozenset[bytes]) -> Iterator[set[bytes]]:
    """Every digest that a snapshot needs, level by level; trees in `seen` are not opened again.

    Raises:
        Corrupt: A tree is missing or damaged.
    """
    if snapshot in seen:
        return
    try:
        trees = {root.tree for root in read_manifest(store, snapshot).roots}
        yield {snapshot, *trees}
        opened: set[bytes] = set()
        depth = 0
        while trees := trees - opened - seen:
            opened |= trees
            depth += 1
            if depth > DEPTH_MAX:
                raise Corrupt(f"snapshot {snapshot.hex()}: deeper than {DEPTH_MAX} directories")
            found: set[bytes] = set()
            below: set[bytes] = set()
            for _, raw in store.get_many(trees):
                _collect(store, raw, found, below)
            yield found
            trees = below
    except HostileManifest as error:
        raise Corrupt(f"snapshot {snapshot.hex()}: {error}") from error


def _collect(store: ChunkStore, raw: bytes, found: set[bytes], below: set[bytes]) -> None:
    parts = [part for part in parts_of(raw) if part is not None]
    found.update(parts)
    pieces = (piece for _, piece in store.get_many(parts)) if parts else iter((raw,))
    for piece in pieces:
        for entry in decode_tree(piece):
            if entry.kind == FILE:
                found.update(entry.chunks)
            elif entry.kind == DIRECTORY:
                found.add(entry.body)
                below.add(entry.body)
