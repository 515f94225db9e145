"""The chunk store over HTTP, for trees that come from or go to the user's own disk."""

from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cli.context import Context
from cli.exits import CliError, Exit

if TYPE_CHECKING:
    from collections.abc import Generator

    from snapshots.capture import Snapshot
    from snapshots.http import HttpChunkStore

UPLOAD_S = 3_600.0
"""The first capture of a large tree over a slow line."""


@contextmanager
def opened(context: Context) -> "Generator[HttpChunkStore]":
    """Open the hub's chunk store; what goes wrong in it becomes an error of the command.

    Raises:
        CliError: The context does not say where the store is, or it refused or failed.
    """
    from snapshots.errors import SnapshotError, StoreUnreachable  # noqa: PLC0415  # blake3 and zstd only where bytes move
    from snapshots.http import HttpChunkStore  # noqa: PLC0415

    if not context.store_url:
        raise CliError(Exit.USAGE, "where the chunk store is, is not known", remedy="set AUTOVIBE_STORE_URL")
    try:
        with HttpChunkStore(context.store_url, context.api_key) as store:
            yield store
    except StoreUnreachable as error:
        raise CliError(Exit.UNREACHABLE, str(error), remedy="start the hub with `autovibe dev`") from error
    except SnapshotError as error:
        raise CliError(Exit.FAILED, str(error)) from error


def upload_tree(context: Context, directory: str) -> "Snapshot":
    """Capture a directory into the hub's store; only chunks that it lacks are sent."""
    from snapshots.capture import capture  # noqa: PLC0415

    with opened(context) as store:
        return capture({"workspace": Path(directory)}, store, deadline_s=UPLOAD_S)


def put_blob(context: Context, content: bytes) -> str:
    """Put one chunk into the hub's store and return its digest."""
    from snapshots.chunks import digest_of, encode  # noqa: PLC0415

    digest = digest_of(content)
    with opened(context) as store, store.writer() as writer:
        if writer.missing([digest]):
            writer.put([encode(digest, content)])
        writer.flush()
    return digest.hex()


def export_directory(context: Context, snapshot: str, to: Path) -> None:
    """Write a snapshot's workspace into a new or empty directory."""
    from snapshots.export import export  # noqa: PLC0415

    with opened(context) as store:
        export(snapshot, to, store)


def export_tar(context: Context, snapshot: str, out: IO[bytes]) -> None:
    """Write a whole snapshot, workspace and home, as a tar."""
    from snapshots.export import export_tar as write  # noqa: PLC0415

    with opened(context) as store:
        write(snapshot, out, store)
