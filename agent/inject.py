"""Put files into a workspace that is not to be trusted, and read them: no link in it is ever followed."""

import contextlib
import errno
import os
import secrets
import stat


class Escape(Exception):
    """The path leads through something that is not a plain directory of the workspace."""


def put(workspace: str, path: str, content: bytes, *, mode: int, owner: tuple[int, int]) -> None:
    """Create or replace one file, making the directories it needs; a link in its place is replaced, not followed.

    Raises:
        Escape: A parent is a link or a file, or a directory stands where the file should be.
    """
    *parents, name = path.split("/")
    directory = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for parent in parents:
            below = _enter(directory, parent, path, owner)
            os.close(directory)
            directory = below
        temporary = _write(directory, content, mode, owner)
        _replace(directory, temporary, name, path)
    finally:
        os.close(directory)


def open_file(workspace: str, path: str) -> int | None:
    """Open a file for reading; None when there is no regular file at this path, or a link on the way.

    Never waits: a pipe in its place is opened without a writer and refused.
    """
    *parents, name = path.split("/")
    directory = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for parent in parents:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(parent, flags, dir_fd=directory)
            os.close(directory)
            directory = below
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        file = os.open(name, flags, dir_fd=directory)
    except OSError:
        return None
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        return None
    return file


def _enter(directory: int, name: str, path: str, owner: tuple[int, int]) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=directory)
        os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as reason:
        if reason.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise Escape(
                f"file {path[:500]!r}: {name[:200]!r} is a link or a file in the workspace, not a directory"
            ) from reason
        raise


def _write(directory: int, content: bytes, mode: int, owner: tuple[int, int]) -> str:
    name = f".autovibe-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=directory), "wb") as file:
        file.write(content)
        os.fchown(file.fileno(), *owner)
        os.fchmod(file.fileno(), mode)
    return name


def _replace(directory: int, temporary: str, name: str, path: str) -> None:
    try:
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except IsADirectoryError as reason:
        os.unlink(temporary, dir_fd=directory)
        raise Escape(f"file {path[:500]!r}: there is a directory of this name in the workspace") from reason
