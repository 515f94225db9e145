"""The secrets that everything hangs on: one file per signing key, in a directory that only its owner can enter."""

import os
import secrets
from pathlib import Path

from events.ids import is_slug
from services.issuer.jwt import Key, KeyKind

ENTROPY_BYTES = 32


class UnsafeKeys(Exception):
    """The directory or a key is open to others or broken. Nothing is repaired silently: a human looks at it first."""


class KeyStore:
    """Signing keys by role; a key is made when it is first asked for and stays the same for ever.

    Two processes that ask at the same moment get the same key: the file appears whole and only once (link, not rename).
    """

    def __init__(self, directory: Path) -> None:
        """Raises:
        UnsafeKeys: The directory is open to others.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = directory.stat().st_mode & 0o777
        if mode & 0o077:
            raise UnsafeKeys(f"{directory} has mode {mode:o}, wanted 700; remedy: chmod 700 {directory}")
        self._directory = directory
        self._keys: dict[str, Key] = {}

    def operator(self) -> Key:
        return self._key("operator", KeyKind.OPERATOR)

    def system(self) -> Key:
        return self._key("account-sys", KeyKind.ACCOUNT)

    def hub(self) -> Key:
        return self._key("account-hub", KeyKind.ACCOUNT)

    def operators(self) -> Key:
        """The account of those who operate the hub."""
        return self._key("account-operators", KeyKind.ACCOUNT)

    def project(self, slug: str) -> Key:
        return self._key(f"project-{_checked(slug)}", KeyKind.ACCOUNT)

    def machines(self, slug: str) -> Key:
        """The scoped key that signs the credentials of a project's machines."""
        return self._key(f"machines-{_checked(slug)}", KeyKind.ACCOUNT)

    def _key(self, name: str, kind: KeyKind) -> Key:
        if name not in self._keys:
            path = self._directory / f"{name}.nk"
            if not path.exists():
                write_secret(path, Key.of(kind, secrets.token_bytes(ENTROPY_BYTES)).seed + "\n", replace=False)
            self._keys[name] = _read(path)
        return self._keys[name]


def write_secret(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file of mode 0600 that is either whole and durable or not there.

    Args:
        replace: False keeps what is already there, whoever wrote it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> Key:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise UnsafeKeys(f"{path} has mode {mode:o}, wanted 600; remedy: chmod 600 {path}")
    try:
        return Key.read(path.read_text().strip())
    except ValueError as error:
        raise UnsafeKeys(f"{path} does not hold a key; remedy: restore it from a backup") from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checked(slug: str) -> str:
    assert is_slug(slug), slug
    return slug
