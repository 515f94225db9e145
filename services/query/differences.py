"""What changed between two checkpoints: their snapshots compared in the chunk store, beside the event loop, bounded."""

import asyncio
from pathlib import Path
from typing import LiteralString, cast

import structlog
from starlette.responses import Response

from services.query.database import Database
from services.query.http import Asked, json_response
from services.query.parameters import Parameter, by_flag, by_text
from services.query.places import Kind, Places
from services.query.problems import HttpProblem, unavailable
from snapshots.diff import Diff, diff
from snapshots.directory import DirectoryChunkStore
from snapshots.errors import MissingChunk, SnapshotError

DIFF_S_MAX = 20.0
AT_ONCE_MAX = 2
TEXT_CHARS_MAX = 1_048_576
CHANGES_MAX = 10_000

_SQL_NODE: LiteralString = """
    SELECT uuid, snapshot, purged_at IS NOT NULL, parent_checkpoint_uuid
      FROM checkpoints
     WHERE uuid = %(uuid)s
"""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("query")


class Differences:
    """The handler of checkpoint diffs."""

    PARAMETERS: tuple[Parameter, ...] = (
        by_text("old").needed(),
        by_text("new"),
        by_flag("stat", "only which files, not what in them"),
    )

    def __init__(self, database: Database, places: Places, store: Path | None) -> None:
        self._database = database
        self._places = places
        self._store = store
        self._places_left = AT_ONCE_MAX

    async def diff(self, asked: Asked) -> Response:
        """From `old` to `new`; without `new`, from the parent of `old` to `old`."""
        if self._store is None:
            raise unavailable("this hub's query service has no chunk store", "set AUTOVIBE_STORE to its directory")
        (old, before), (new, after) = await self._both(asked)
        found = await self._compared(self._store, before, after, text=not asked.values.get("stat"))
        text = "".join(change.text for change in found.changes)
        truncated = (
            found.truncated
            or len(text) > TEXT_CHARS_MAX
            or any(change.note == "left out (limit)" for change in found.changes)
        )
        changes = [{"kind": change.change, "path": change.path, "note": change.note} for change in found.changes]
        return json_response(
            {"old": old, "new": new, "changes": changes, "text": text[:TEXT_CHARS_MAX], "truncated": truncated}
        )

    async def _both(self, asked: Asked) -> tuple[tuple[str, str], tuple[str, str]]:
        first, other = cast("str", asked.values["old"]), asked.text("new")
        uuid, snapshot, parent = await self._node(asked, first)
        if other is not None:
            newer, newer_snapshot, _ = await self._node(asked, other)
            return (uuid, snapshot), (newer, newer_snapshot)
        if parent is None:
            raise HttpProblem(
                409, "no_parent", f"checkpoint {uuid} has no parent to compare with", remedy="name a second checkpoint"
            )
        older, older_snapshot, _ = await self._node(asked, parent)
        return (older, older_snapshot), (uuid, snapshot)

    async def _node(self, asked: Asked, name: str) -> tuple[str, str, str | None]:
        """Return id, snapshot and parent of a checkpoint whose bytes are still there."""
        _, found = await self._places.find(Kind.CHECKPOINT, name, asked.caller)
        row = await self._database.one(_SQL_NODE, {"uuid": found})
        if row is None:
            raise unavailable(f"the read model does not have checkpoint {found} yet")
        uuid, snapshot, purged, parent = row
        if purged:
            raise HttpProblem(409, "purged", f"the bytes of checkpoint {uuid} were purged", value=str(uuid))
        return str(uuid), str(snapshot), str(parent) if parent else None

    async def _compared(self, store: Path, before: str, after: str, *, text: bool) -> Diff:
        if self._places_left == 0:
            raise HttpProblem(
                503,
                "busy",
                "checkpoints are being compared",
                limit=f"{AT_ONCE_MAX} at once",
                headers={"Retry-After": "2"},
            )
        self._places_left -= 1
        work = asyncio.ensure_future(asyncio.to_thread(_compare, store, before, after, text=text))
        work.add_done_callback(self._done)  # A thread cannot be stopped: its place is taken until it ends.
        try:
            async with asyncio.timeout(DIFF_S_MAX):
                return await asyncio.shield(work)
        except TimeoutError:
            raise HttpProblem(
                503, "too_slow", f"the comparison took longer than {DIFF_S_MAX:g} s", remedy="ask with stat=1"
            ) from None
        except MissingChunk as error:
            raise HttpProblem(409, "missing_chunks", f"the chunk store does not hold it all: {error}"[:400]) from error
        except SnapshotError as error:
            raise unavailable(f"the chunk store: {error}"[:400]) from error

    def _done(self, work: "asyncio.Future[Diff]") -> None:
        self._places_left += 1
        if not work.cancelled() and (error := work.exception()) is not None:
            _log.info("diff.failed", reason=str(error)[:300])


def _compare(store: Path, before: str, after: str, *, text: bool) -> Diff:
    with DirectoryChunkStore(store) as chunks:
        return diff(before, after, chunks, text=text, changes_max=CHANGES_MAX)
