"""What differs between two snapshots, found by descending only where trees differ."""

from collections.abc import Iterator
from dataclasses import dataclass

from snapshots.port import ChunkStore
from snapshots.trees import DEPTH_MAX, DIRECTORY, Entry, Manifest, read_manifest, read_trees

Pair = tuple[bytes, Entry | None, Entry | None]
"""A path, and what stands there before and after."""
BATCH_TREES = 512


@dataclass(slots=True)
class Counts:
    """Files and links; a directory's own mode or time is no change of a file."""

    added: int = 0
    changed: int = 0
    removed: int = 0


def roots_of(manifest: Manifest | None) -> list[Entry]:
    return [root.entry() for root in manifest.roots] if manifest else []


def count_changes(store: ChunkStore, before: bytes | None, after: bytes) -> Counts:
    """Count what was added, changed (content, mode or target) and removed; cheap where trees are shared."""
    counts = Counts()
    if before == after:
        return counts
    old = read_manifest(store, before) if before else None
    for _, was, now in pairs(store, roots_of(old), roots_of(read_manifest(store, after)), whole=False):
        if was is None and now is not None:
            counts.added += now.files
        elif now is None and was is not None:
            counts.removed += was.files
        elif was is not None and now is not None and differs(was, now):
            if DIRECTORY not in (was.kind, now.kind):
                counts.changed += 1
            elif was.kind != now.kind:
                counts.removed += was.files
                counts.added += now.files
    return counts


def differs(was: Entry, now: Entry) -> bool:
    """Whether a user would say so: times alone are no difference."""
    if was.kind == now.kind == DIRECTORY:
        return was.mode != now.mode
    return (was.kind, was.mode, was.size, was.body) != (now.kind, now.mode, now.size, now.body)


def pairs(store: ChunkStore, before: list[Entry], after: list[Entry], *, whole: bool) -> Iterator[Pair]:
    """Every name that is not the same on both sides, directories before what is in them, level by level.

    Args:
        whole: Descend into directories that stand on one side only as well.
    """
    level: list[tuple[bytes, list[Entry], list[Entry]]] = [(b"", before, after)]
    for _ in range(DEPTH_MAX + 1):
        below: list[Pair] = []
        for path, old, new in level:
            for pair in _level(path, old, new):
                yield pair
                if _descends(pair, whole=whole):
                    below.append(pair)
        if not below:
            return
        level = []
        for start in range(0, len(below), BATCH_TREES):
            batch = below[start : start + BATCH_TREES]
            wanted = {entry.body for _, *sides in batch for entry in sides if entry and entry.kind == DIRECTORY}
            trees = read_trees(store, list(wanted))
            level += [(path, _entries(trees, was), _entries(trees, now)) for path, was, now in batch]


def _level(path: bytes, before: list[Entry], after: list[Entry]) -> Iterator[Pair]:
    old = {entry.name: entry for entry in before}
    new = {entry.name: entry for entry in after}
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if was != now:
            yield path + b"/" + name if path else name, was, now


def _descends(pair: Pair, *, whole: bool) -> bool:
    _, was, now = pair
    old = was is not None and was.kind == DIRECTORY
    new = now is not None and now.kind == DIRECTORY
    if old and new:
        return was.body != now.body if was and now else False
    return whole and (old or new)


def _entries(trees: dict[bytes, list[Entry]], entry: Entry | None) -> list[Entry]:
    return trees[entry.body] if entry is not None and entry.kind == DIRECTORY else []
