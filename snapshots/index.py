"""Where each chunk stands, in SQLite: derived from the packs, and rebuilt from them when it is lost.

It is not synced at every commit (WAL, synchronous=NORMAL), because losing its tail is harmless: a pack it forgot is
found again after the next boot or when a chunk is missed. The one dangerous direction, an index that remembers a pack
which is gone, is closed by syncing before packs are removed and by comparing with the directory after each boot.
"""

import sqlite3
import threading
import time
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from snapshots.errors import Corrupt, StoreFull, Transient

BUSY_MS_MAX = 30_000
IN_LIST = 500
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

SCHEMA = """
    CREATE TABLE IF NOT EXISTS packs (
        id         INTEGER PRIMARY KEY,
        name       TEXT NOT NULL UNIQUE,
        size_bytes INTEGER NOT NULL,
        created_at REAL NOT NULL
    );
    CREATE TABLE IF NOT EXISTS chunks (
        digest       BLOB PRIMARY KEY,
        pack_id      INTEGER NOT NULL,
        position     INTEGER NOT NULL,
        stored_bytes INTEGER NOT NULL,
        raw_bytes    INTEGER NOT NULL,
        codec        INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS roots (digest BLOB PRIMARY KEY, committed_at REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
SET_FACT = "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
ADD_CHUNK = "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?, ?, ?)"
ADD_PACK = "INSERT OR IGNORE INTO packs (name, size_bytes, created_at) VALUES (?, ?, ?)"
SET_ROOT = "INSERT INTO roots VALUES (?, ?) ON CONFLICT (digest) DO UPDATE SET committed_at = excluded.committed_at"
LOCATE = """
    SELECT c.digest, p.name, c.position, c.stored_bytes, c.raw_bytes, c.codec
      FROM chunks c
      JOIN packs p ON p.id = c.pack_id
     WHERE c.digest IN ({})
"""


class Row(NamedTuple):
    """One chunk within a pack that is being added."""

    digest: bytes
    position: int
    stored_bytes: int
    raw_bytes: int
    codec: int


class Location(NamedTuple):
    """Where a chunk's payload stands."""

    digest: bytes
    pack: str
    position: int
    stored_bytes: int
    raw_bytes: int
    codec: int


class PackRow(NamedTuple):
    id: int
    name: str
    size_bytes: int
    created_at: float


class Index:
    """One connection, serialised by a lock; other processes have their own."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS_MAX / 1000)
        with self._errors():
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA cache_size = -16384")
            if self._one("PRAGMA user_version") == 0:
                self._db.execute("PRAGMA journal_mode = WAL")
                with self.transaction():
                    for statement in SCHEMA.split(";"):
                        self._db.execute(statement)
                    self._db.execute("INSERT OR IGNORE INTO facts VALUES ('generation', ?)", (uuid4().hex,))
                    self._db.execute("PRAGMA user_version = 1")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Generator[None]:
        """Everything or nothing, one writer at a time on this host; `durable` survives a power cut as well."""
        with self._lock, self._errors():
            if durable:
                self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled back already
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._db.execute("PRAGMA synchronous = NORMAL")

    def generation(self) -> str:
        with self._lock, self._errors():
            return str(self._one("SELECT value FROM facts WHERE name = 'generation'"))

    def new_generation(self) -> None:
        self._db.execute(SET_FACT, ("generation", uuid4().hex))

    def booted(self) -> bool:
        """Whether the host has booted since the index was last compared with the packs."""
        with self._lock, self._errors():
            return self._one("SELECT value FROM facts WHERE name = 'boot'") != BOOT_ID.read_text().strip()

    def note_boot(self) -> None:
        self._db.execute(SET_FACT, ("boot", BOOT_ID.read_text().strip()))

    def known(self, digests: Collection[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        with self._lock, self._errors():
            for batch in _batches(digests):
                marks = ",".join("?" * len(batch))
                query = f"SELECT digest FROM chunks WHERE digest IN ({marks})"  # noqa: S608 (only question marks)
                found.update(row[0] for row in self._db.execute(query, batch))
        return found

    def locate(self, digests: Collection[bytes]) -> list[Location]:
        """Sorted by pack and position; what is not there is left out."""
        found: list[Location] = []
        with self._lock, self._errors():
            for batch in _batches(digests):
                rows = self._db.execute(LOCATE.format(",".join("?" * len(batch))), batch)
                found.extend(map(Location._make, rows))
        found.sort(key=lambda location: (location.pack, location.position))
        return found

    def add_pack(self, name: str, size_bytes: int, rows: Iterable[Row], created_at: float) -> None:
        with self.transaction():
            self.insert_pack(name, size_bytes, rows, created_at)

    def insert_pack(self, name: str, size_bytes: int, rows: Iterable[Row], created_at: float) -> None:
        """Within a transaction."""
        added = self._db.execute(ADD_PACK, (name, size_bytes, created_at))
        if added.rowcount != 1:
            return
        pack_id = added.lastrowid
        self._db.executemany(ADD_CHUNK, ((d, pack_id, at, stored, raw, codec) for d, at, stored, raw, codec in rows))

    def replace_pack(self, name: str, size_bytes: int, rows: Collection[Row]) -> None:
        """Within a transaction: the chunks stand in this pack from now on, whatever the index said before."""
        self._db.execute("DELETE FROM packs WHERE name = ?", (name,))
        self._db.executemany("DELETE FROM chunks WHERE digest = ?", ((row.digest,) for row in rows))
        self.insert_pack(name, size_bytes, rows, time.time())

    def packs(self) -> dict[str, PackRow]:
        with self._lock, self._errors():
            rows = self._db.execute("SELECT id, name, size_bytes, created_at FROM packs")
            return {row[1]: PackRow._make(row) for row in rows}

    def digests_in(self, pack_id: int) -> list[Location]:
        with self._lock, self._errors():
            query = (
                "SELECT c.digest, p.name, c.position, c.stored_bytes, c.raw_bytes, c.codec "
                "FROM chunks c JOIN packs p ON p.id = c.pack_id WHERE p.id = ? ORDER BY c.position"
            )
            return [Location._make(row) for row in self._db.execute(query, (pack_id,))]

    def chunks_by_pack(self) -> Iterator[tuple[bytes, int, int]]:
        """Every chunk: digest, pack id, stored bytes."""
        with self._lock, self._errors():
            yield from self._db.execute("SELECT digest, pack_id, stored_bytes FROM chunks")

    def forget_packs(self, pack_ids: Collection[int]) -> None:
        """Within a transaction."""
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS gone (id INTEGER PRIMARY KEY)")
        self._db.execute("DELETE FROM gone")
        self._db.executemany("INSERT INTO gone VALUES (?)", ((pack_id,) for pack_id in pack_ids))
        self._db.execute("DELETE FROM chunks WHERE pack_id IN (SELECT id FROM gone)")
        self._db.execute("DELETE FROM packs WHERE id IN (SELECT id FROM gone)")

    def set_root(self, root: bytes) -> None:
        """Within a transaction."""
        self._db.execute(SET_ROOT, (root, time.time()))

    def roots(self, since: float) -> set[bytes]:
        with self._lock, self._errors():
            return {row[0] for row in self._db.execute("SELECT digest FROM roots WHERE committed_at >= ?", (since,))}

    def forget_roots(self, before: float) -> None:
        """Within a transaction."""
        self._db.execute("DELETE FROM roots WHERE committed_at < ?", (before,))

    def totals(self) -> tuple[int, int, int, int]:
        """Packs, chunks, raw bytes, bytes of packs."""
        with self._lock, self._errors():
            chunks, raw = self._db.execute("SELECT count(*), coalesce(sum(raw_bytes), 0) FROM chunks").fetchone()
            packs, size = self._db.execute("SELECT count(*), coalesce(sum(size_bytes), 0) FROM packs").fetchone()
        return packs, chunks, raw, size

    def _one(self, query: str) -> str | int | None:
        row = self._db.execute(query).fetchone()
        return row[0] if row else None

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "I/O" in str(error):
                raise StoreFull(f"{self._path}: {error}; free space, then call again") from error
            raise Transient(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"{self._path}: {error}; remove it, it is rebuilt from the packs") from error


def _batches(digests: Collection[bytes]) -> Iterator[list[bytes]]:
    ordered = list(digests)
    for start in range(0, len(ordered), IN_LIST):
        yield ordered[start : start + IN_LIST]
