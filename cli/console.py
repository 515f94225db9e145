"""What a command prints: JSON for programs, tables and colours for people at a terminal, plain text elsewhere.

Data goes to stdout, everything else (progress, remedies, errors) to stderr. Rich is imported only where it draws.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from cli.exits import CliError

BOLD, DIM, RED, GREEN, YELLOW, BLUE = "1", "2", "31", "32", "33", "34"
COLOUR_OF_WORD = {
    "succeeded": GREEN, "verified": GREEN, "active": GREEN, "working": BLUE, "spawning": BLUE, "checkpointing": BLUE,
    "failed": RED, "lost": RED, "denied": RED, "corrupt": RED, "cancelled": YELLOW, "expired": YELLOW, "parked": YELLOW,
    "queued": YELLOW,
}  # fmt: skip


def colours(stream: TextIO) -> bool:
    """Whether escape codes may be written: a terminal, and neither NO_COLOR nor TERM=dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO | None = None) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colours(stream or sys.stdout) else text


def word(text: str, stream: TextIO | None = None) -> str:
    """A status word in its colour."""
    return paint(text, COLOUR_OF_WORD[text], stream) if text in COLOUR_OF_WORD else text


def say(text: str = "") -> None:
    """Print a line of data."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a line beside the data: progress, hints."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def emit(content: object) -> None:
    """Print one JSON document on a line (NDJSON where a command prints several)."""
    say(json.dumps(content, separators=(",", ":"), ensure_ascii=False, default=str))


def complain(error: CliError, *, as_json: bool) -> None:
    """Say on stderr why a command cannot go on, and what to do."""
    if as_json:
        note(
            json.dumps(
                {"error": error.message, "exit_code": int(error.exit_code), "remedy": error.remedy, **error.problem}
            )
        )
        return
    note(f"{paint('error:', RED, sys.stderr)} {printable(error.message)}")
    for name in ("field", "value", "limit"):
        if error.problem.get(name):
            note(f"  {name}: {printable(str(error.problem[name]))}")
    if error.remedy:
        note(f"  {paint('try:', BOLD, sys.stderr)} {printable(error.remedy)}")


def printable(text: str) -> str:
    """Text from elsewhere without control characters: nobody's goal may steer the reader's terminal."""
    return "".join(char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in text)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns as wide as their content; on a terminal the headings are bold."""
    cells = [[printable(str("-" if cell is None else cell)) for cell in row] for row in rows]
    widths = [max(len(line[n]) for line in [list(headings), *cells]) for n in range(len(headings))]
    say(paint(_line(headings, widths), BOLD))
    for line in cells:
        padded = _line(line, widths)
        for cell in line:
            if cell in COLOUR_OF_WORD:
                padded = padded.replace(cell, word(cell), 1)
        say(padded)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def money(amount: object) -> str:
    """An exact amount of CAD for people: at least two places, no trailing zeros beyond."""
    whole, _, places = str(amount or "0").partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')} CAD"


def size(size_bytes: object) -> str:
    value = float(str(size_bytes or 0))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":  # the next unit
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("GiB returns")


def first_line(text: object, most: int) -> str:
    line = str(text or "").strip().partition("\n")[0]
    return line if len(line) <= most else line[: most - 1] + "…"
