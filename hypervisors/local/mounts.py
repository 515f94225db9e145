"""Which directories of the host a sandbox may be shown beside the system: a tool's own, never what is private."""

from collections.abc import Iterable
from pathlib import Path

from hypervisors.port import Refused

SYSTEM = tuple(map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")))
"""Shown anyway."""
TAKEN = tuple(map(Path, ("/proc", "/sys", "/dev", "/etc", "/run", "/workspace", "/home/agent")))
"""What the sandbox has of its own, and what is the host's state."""
SECRETS = (".ssh", ".aws", ".azure", ".gnupg", ".kube", ".docker", ".netrc", ".git-credentials")
"""Names in a home that hold credentials, and nothing that a tool needs."""
SETTINGS = (".claude", ".qwen", ".config", ".local")
"""Names in a home that hold credentials among other things: never shown as a whole."""


def checked(wanted: Iterable[str], hidden: Iterable[Path]) -> tuple[Path, ...]:
    """Return what is to be mounted: resolved, outer before inner, without what the sandbox sees anyway.

    Args:
        wanted: Absolute paths; a link is shown at its own place with what it leads to.
        hidden: Directories of which no file may be shown, nor what holds them.

    Raises:
        Refused: A path is not there, or would show what is private.
    """
    kept = [path.resolve() for path in hidden]
    found: dict[Path, None] = {}
    for text in wanted:
        path = Path(text)
        if not path.is_absolute() or ".." in path.parts or len(path.parts) < 3:
            raise Refused(f"mount {text[:200]!r}: an absolute path below a directory of the root is needed")
        real = _resolved(path)
        for each in {path, real}:
            _refuse_private(each, kept)
        if not any(path.is_relative_to(system) for system in SYSTEM):
            found[path] = None
    return tuple(sorted(found, key=lambda path: len(path.parts)))


def _resolved(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except OSError as reason:
        raise Refused(f"mount {str(path)[:200]!r}: it is not on this host: {reason}") from reason


def _refuse_private(path: Path, kept: list[Path]) -> None:
    if any(place.is_relative_to(path) for place in (*kept, *_homes())) or any(path.is_relative_to(k) for k in kept):
        raise Refused(f"mount {str(path)[:200]!r}: it would show a home or what this hub keeps")
    if any(path.is_relative_to(place) or place.is_relative_to(path) for place in TAKEN):
        raise Refused(f"mount {str(path)[:200]!r}: the sandbox has a place of its own there, or the host its state")
    if path.name in SETTINGS or any(name in path.parts for name in SECRETS):
        raise Refused(f"mount {str(path)[:200]!r}: a directory of this name holds credentials")


def _homes() -> list[Path]:
    """Homes of this host: none may be shown as a whole; a directory inside one may."""
    return [Path("/root"), Path("/home"), Path.home().resolve()]
