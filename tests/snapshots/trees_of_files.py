"""Directories to capture, and what one looks like from outside."""

import os
import random
import stat
from pathlib import Path


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def many(root: Path, count: int, seed: int = 7) -> None:
    """Small files of mixed sizes in a hundred directories."""
    chance = random.Random(seed)
    for index in range(count):
        size = int(chance.lognormvariate(6.5, 1.2))
        write(root, {f"d{index % 10}/e{index % 100}/f{index}.txt": (f"{index} line of text\n" * size)[:size]})


def everything(root: Path) -> None:
    """One of each thing that a snapshot keeps."""
    write(root, {"a.txt": "hello\n", "empty": "", "deep/er/est.txt": "x" * 5000, ".git/HEAD": "ref: refs/heads/main\n"})
    write(root, {"big.bin": random.Random(1).randbytes(3 * (1 << 20) + 17), "exact.bin": b"e" * (1 << 20)})
    (root / "void").mkdir()
    (root / "link").symlink_to("a.txt")
    (root / "dangling").symlink_to("/nowhere/../at all")
    (root / "deep/up").symlink_to("..")
    os.close(os.open(os.fsencode(root) + b"/not-utf8-\xff\xfe", os.O_CREAT | os.O_WRONLY))
    write(root, {"new\nline 'and\" ünï.txt": "odd"})
    os.link(root / "a.txt", root / "hard.txt")
    (root / "a.txt").chmod(0o640)
    (root / "deep/er/est.txt").chmod(0o000)
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    os.utime(root / "a.txt", ns=(1, 1_600_000_000_123_456_789))
    os.utime(root / "void", ns=(1, 987_654_321))
    (root / "deep/er").chmod(0o555)


def seen(root: Path) -> dict[bytes, tuple[int, int, bytes]]:
    """Path to mode, mtime and content, read without any of our code."""
    found: dict[bytes, tuple[int, int, bytes]] = {}
    base = os.fsencode(root)
    for directory, names, files in os.walk(base):
        for path in [directory, *(os.path.join(directory, name) for name in names + files)]:  # noqa: PTH118 (bytes)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)  # noqa: PTH115 (bytes)
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:  # noqa: PTH123 (bytes)
                    content = file.read()
            else:
                content = b""
            found[os.path.relpath(path, base)] = (status.st_mode, status.st_mtime_ns, content)
    return found
