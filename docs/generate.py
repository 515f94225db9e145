"""The part of the documentation that the code knows better: commands, settings, streams, tables, metrics, HTTP, phases.

`python -m docs.generate` writes it, `--check` fails when a file is not what would be written.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from docs.generators import cli, errors, http, metrics, phases, settings, streams, tables

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path("docs/reference")


def documents() -> Mapping[Path, str]:
    """Return every generated file's path below the root and its text."""
    return {
        REFERENCE / "cli.md": cli.text(),
        REFERENCE / "settings.md": settings.text(),
        REFERENCE / "streams.md": streams.text(),
        REFERENCE / "tables.md": tables.text(),
        REFERENCE / "metrics.md": metrics.text(),
        REFERENCE / "http.md": http.text(),
        REFERENCE / "phases.md": phases.text(),
        REFERENCE / "errors.md": errors.text(),
        Path(".env.example"): settings.environment(),
    }


def stale(root: Path = ROOT) -> list[Path]:
    """Return the files that are missing or different."""
    return [path for path, text in documents().items() if _read(root / path) != text]


def write(root: Path = ROOT) -> None:
    for path, text in documents().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m docs.generate [--check]\n")
        return 2
    if not arguments:
        write()
        return 0
    wrong = stale()
    for path in wrong:
        sys.stderr.write(f"{path}: not what the code says; remedy: python -m docs.generate\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
