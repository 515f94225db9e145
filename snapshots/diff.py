"""What changed between two snapshots, as a user would say it."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from snapshots.compare import Pair, differs, pairs, roots_of
from snapshots.port import ChunkStore
from snapshots.trees import DIRECTORY, FILE, LINK, Entry, read_manifest

CHANGES_MAX = 10_000
FILE_BYTES_MAX = 512 << 10
TEXT_BYTES_MAX = 1 << 20
COMPARED_LINES_MAX = 4_000_000
"""Lines of one side times lines of the other, after what both begin and end with: difflib is quadratic at worst."""
KIND_NAMES = {FILE: "file", DIRECTORY: "directory", LINK: "link"}


@dataclass(frozen=True, slots=True)
class Side:
    """What stands at a path."""

    kind: str
    mode: int
    size_bytes: int
    target: str = ""
    """A link's."""


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs. `text` is a unified diff; it is empty where `note` says why."""

    path: str
    """Starts with the root's name; bytes that are not UTF-8 are shown as \\xNN."""
    change: Literal["added", "removed", "changed"]
    before: Side | None
    after: Side | None
    text: str
    note: str
    """`binary`, `too large`, `left out (limit)`, `mode`, `kind`, or empty."""


@dataclass(frozen=True, slots=True)
class Diff:
    """At most 10,000 changes and 1 MiB of text; `truncated` when there are more changes."""

    changes: tuple[Change, ...]
    truncated: bool


def diff(before: str, after: str, store: ChunkStore, *, text: bool = True, changes_max: int = CHANGES_MAX) -> Diff:
    """Compare two snapshots; the cost is that of what differs. Modification times alone are no difference.

    Everything inside an added or removed directory is listed as well.
    """
    old = roots_of(read_manifest(store, bytes.fromhex(before)))
    new = roots_of(read_manifest(store, bytes.fromhex(after)))
    changes: list[Change] = []
    left = TEXT_BYTES_MAX if text else 0
    for pair in pairs(store, old, new, whole=True):
        _, was, now = pair
        if was is not None and now is not None and not differs(was, now):
            continue
        if len(changes) >= changes_max:
            return Diff(_sorted(changes), truncated=True)
        change = _change(store, pair, left, text=text)
        left -= len(change.text)
        changes.append(change)
    return Diff(_sorted(changes), truncated=False)


def _sorted(changes: list[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda change: change.path))


def _change(store: ChunkStore, pair: Pair, left: int, *, text: bool) -> Change:
    path, was, now = pair
    shown = path.decode("utf-8", "backslashreplace")
    kind: Literal["added", "removed", "changed"] = "added" if was is None else "removed" if now is None else "changed"
    body, note = _text(store, shown, was, now) if text else ("", "")
    if len(body) > left and body:
        body, note = "", "left out (limit)"
    return Change(shown, kind, _side(was), _side(now), body, note)


def _side(entry: Entry | None) -> Side | None:
    if entry is None:
        return None
    target = entry.body.decode("utf-8", "backslashreplace") if entry.kind == LINK else ""
    return Side(KIND_NAMES[entry.kind], entry.mode, entry.size, target)


def _text(store: ChunkStore, path: str, was: Entry | None, now: Entry | None) -> tuple[str, str]:
    sides = [entry for entry in (was, now) if entry is not None]
    if len({entry.kind for entry in sides}) > 1:
        return "", "kind"
    if sides[0].kind != FILE:
        return "", ""
    if len(sides) > 1 and sides[0].body == sides[1].body:
        return "", "mode"
    if any(entry.size > FILE_BYTES_MAX for entry in sides):
        return "", "too large"
    raws = [b"".join(map(store.get, entry.chunks)) if entry is not None else b"" for entry in (was, now)]
    lines = [_lines(raw) for raw in raws]
    if lines[0] is None or lines[1] is None:
        return "", "binary"
    return unified(lines[0], lines[1], f"a/{path}" if was else "/dev/null", f"b/{path}" if now else "/dev/null"), ""


def _lines(raw: bytes) -> list[str] | None:
    """None when it is not text."""
    try:
        return None if b"\0" in raw else raw.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return None


def unified(old: list[str], new: list[str], old_name: str, new_name: str) -> str:
    """A unified diff in bounded time: what differs too widely is shown as replaced as a whole."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    if (len(old) - start - end) * (len(new) - start - end) > COMPARED_LINES_MAX:
        head = f"--- {old_name}\n+++ {new_name}\n"
        counts = len(old) - start - end, len(new) - start - end
        hunk = [f"@@ -{start + 1},{counts[0]} +{start + 1},{counts[1]} @@\n"]
        hunk += [f"-{line}" for line in old[start : len(old) - end]]
        hunk += [f"+{line}" for line in new[start : len(new) - end]]
        return head + _ended(hunk)
    return _ended(difflib.unified_diff(old, new, old_name, new_name))


def _ended(lines: Iterable[str]) -> str:
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
