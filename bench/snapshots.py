"""Capture and restore of a realistic tree beside restic and git, interleaved, wall and CPU.

    python -m bench.snapshots [--tree DIR] [--rounds 3] [--packages]

Without --tree one is made: 45,000 files, 700 MB, sizes log-normal around 1 KB with a long tail, contents that compress
about as source code does; with --packages it is installed from npm and PyPI instead. Needs restic and git on the PATH;
a peer that is not there is said to be missing. Times are medians; `ours, new process` starts an interpreter and loads
a saved stat cache for each call, as git does its index; `ours` is a process that stays, as the agent does.
"""

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from snapshots.capture import capture
from snapshots.directory import DirectoryChunkStore
from snapshots.restore import restore
from snapshots.statcache import StatCache

FILES, BYTES_GOAL = 45_000, 700_000_000
NPM = "next@14 typescript eslint@8 webpack @babel/preset-env react-dom jest date-fns rxjs three antd core-js".split()  # noqa: SIM905
PIP = "numpy django matplotlib sympy sqlalchemy pandas".split()  # noqa: SIM905
GIT = ["git", "-c", "core.fsync=all", "-c", "core.fsyncMethod=batch", "-c", "user.name=b", "-c", "user.email=b@b"]
ENVIRONMENT = os.environ | {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": ""}
PROCESS = """
import sys
from pathlib import Path
from snapshots.capture import capture
from snapshots.directory import DirectoryChunkStore
from snapshots.statcache import StatCache
store, tree, saved = map(Path, sys.argv[1:])
cache = StatCache.load(saved)
before = cache.snapshot
with DirectoryChunkStore(store) as opened:
    capture({"workspace": tree}, opened, cache=cache)
if cache.snapshot != before:
    cache.save(saved)
"""
Figures = dict[tuple[str, str], list[tuple[float, float]]]
"""(who, what) to wall and CPU seconds of each round."""


def cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(figures: Figures, who: str, what: str, work: Callable[[], object]) -> None:
    started, used = time.perf_counter(), cpu_s()
    work()
    figures.setdefault((who, what), []).append((time.perf_counter() - started, cpu_s() - used))


def run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.DEVNULL)


def generate(tree: Path, seed: int = 1) -> None:
    chance = random.Random(seed)
    words = [bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz_", k=chance.randint(2, 11))) for _ in range(20_000)]
    marks = [b" ", b" ", b".", b"(", b")", b" = ", b";\n    ", b",\n", b"\n\n", b'"']
    source = b"".join(chance.choice(words) + chance.choice(marks) for _ in range(1_500_000))
    left = BYTES_GOAL
    for index in range(FILES):
        directory = tree / f"p{index % 300}" / f"lib{index % 23}" / f"m{index // 7000}"
        directory.mkdir(parents=True, exist_ok=True)
        size = min(int(chance.lognormvariate(7.0, 1.9)), 30 << 20, max(left, 100))
        left -= size
        start = chance.randrange(len(source) - 1)
        body = bytearray((source[start:] + source)[:size] if size < len(source) else source * (size // len(source) + 1))
        for at in range(0, size, 3000):
            body[at : at + 12] = chance.randbytes(12)
        (directory / f"f{index}.js").write_bytes(bytes(body[:size]))
    for index in range(12):  # binaries: half of a real tree's bytes
        part = b"".join(
            chance.randbytes(3000) + bytes(3000) + source[at : at + 3000] for at in range(0, 8_000_000, 3000)
        )
        (tree / f"p{index}" / "native.node").write_bytes(part[: max(left // 12, 1 << 20)])


def install(tree: Path) -> None:
    (tree / "web").mkdir(parents=True)
    (tree / "web/package.json").write_text('{"private": true}')
    run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *NPM, cwd=tree / "web")
    run(sys.executable, "-m", "pip", "install", "-q", "--target", tree / "py", *PIP)


def change(files: list[Path], round_number: int) -> None:
    for index in range(20):
        path = files[(round_number * 7919 + index * 2003) % len(files)]
        with path.open("ab") as file:
            file.write(f"// change {round_number}/{index}\n".encode())


class Ours:
    def __init__(self, work: Path, tree: Path) -> None:
        self.store = DirectoryChunkStore(work / "ours")
        self.tree, self.cache, self.saved = tree, StatCache(), work / "saved"
        self.path = work / "ours"

    def capture(self) -> None:
        capture({"workspace": self.tree}, self.store, cache=self.cache)

    def capture_process(self) -> None:
        run(sys.executable, "-c", PROCESS, self.path, self.tree, self.saved)

    def restore(self, target: Path) -> None:
        restore(self.cache.snapshot.hex(), {"workspace": target}, self.store)


class Restic:
    def __init__(self, work: Path, tree: Path) -> None:
        self.path, self.tree = work / "restic", tree
        self.base = ["restic", "-q", "--cache-dir", work / "restic-cache", "-r", self.path]
        run(*self.base, "init")

    def capture(self) -> None:
        run(*self.base, "backup", ".", cwd=self.tree)

    def restore(self, target: Path) -> None:
        run(*self.base, "restore", "latest", "--target", target)


class Git:
    def __init__(self, work: Path, tree: Path) -> None:
        self.path = work / "git"
        run("git", "init", "-q", "--bare", self.path)
        run("git", "--git-dir", self.path, "config", "core.bare", "false")
        self.base = [*GIT, "--git-dir", self.path, "--work-tree", tree]
        self.tree = tree

    def capture(self) -> None:
        run(*self.base, "add", "-A", "-f", cwd=self.tree)
        run(*self.base, "commit", "-q", "--allow-empty", "-m", "checkpoint", cwd=self.tree)


def measure(work: Path, tree: Path, rounds: int) -> Figures:  # noqa: C901 (one story, in order)
    figures: Figures = {}
    files = sorted(
        path for path in tree.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size < 50_000
    )
    peers: dict[str, type[Restic | Git]] = {"restic": Restic, "git": Git}
    present = {name: peer(work, tree) for name, peer in peers.items() if shutil.which(name)}
    ours = Ours(work, tree)
    for name in peers.keys() - present.keys():
        print(f"{name}: not on the PATH, left out")
    for path in tree.rglob("*"):  # warm the page cache for whoever comes first
        if path.is_file():
            path.read_bytes()
    everybody: dict[str, Callable[[], None]] = {"ours": ours.capture} | {n: p.capture for n, p in present.items()}
    for name, work_of in everybody.items():
        timed(figures, name, "first", work_of)
    ours.cache.save(ours.saved)
    everybody["ours, new process"] = ours.capture_process
    for number in range(rounds):
        for name, work_of in everybody.items():
            timed(figures, name, "unchanged", work_of)
        change(files, number)
        for name, work_of in everybody.items():
            timed(figures, name, "20 changed", work_of)
    for name, peer in {"ours": ours, **present}.items():
        if not isinstance(peer, Git):
            timed(figures, name, "restore", lambda peer=peer, name=name: peer.restore(work / f"restored-{name}"))
    for name, peer in {"ours": ours, **present}.items():
        size = sum(path.stat().st_size for path in peer.path.rglob("*") if path.is_file())
        figures[name, "store MB"] = [(size / 1e6, 0.0)]
    return figures


def report(figures: Figures) -> None:
    print(f"{'':12} {'who':18} {'wall s':>8} {'CPU s':>8} {'ours/it wall':>13} {'CPU':>6}")
    middle = {
        key: tuple(statistics.median(values) for values in zip(*rows, strict=True)) for key, rows in figures.items()
    }
    for what in ("first", "unchanged", "20 changed", "restore", "store MB"):
        wall, used = middle["ours", what]
        for (who, kind), (other_wall, other_used) in middle.items():
            if kind == what:
                cpu_ratio = f"{used / other_used:6.2f}" if other_used else ""
                print(f"{what:12} {who:18} {other_wall:8.3f} {other_used:8.3f} {wall / other_wall:13.2f} {cpu_ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Snapshots beside restic and git.")
    parser.add_argument("--tree", type=Path, help="measure a copy of this directory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packages", action="store_true", help="make the tree from npm and PyPI packages")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-snapshots-") as directory:
        tree = Path(directory) / "tree"
        if options.tree:
            shutil.copytree(options.tree, tree, symlinks=True)
        else:
            (install if options.packages else generate)(tree)
        os.sync()
        report(measure(Path(directory), tree, options.rounds))


if __name__ == "__main__":
    main()
