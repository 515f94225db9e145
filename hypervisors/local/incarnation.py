"""What one incarnation has on disk: its directory, a record written before anything else, and what is left of it after.

<data>/machines/<machine>/<epoch>/record.json   who it is; without it the directory is rubbish of a torn start
<data>/machines/<machine>/<epoch>/{workspace,home,tmp}   owned by the sandbox's user, all that the sandbox may write
<data>/machines/<machine>/<epoch>/alive         touched by the agent with every heartbeat
<data>/machines/<machine>/<epoch>.usage.json    what it used; stays a day, so that destroying twice says the same
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from hypervisors.port import Usage

TOMBSTONE_S = 86_400
WRITABLE = ("workspace", "home", "tmp")


class Record(BaseModel):
    """What a later run of the driver must know of an incarnation."""

    model_config = ConfigDict(frozen=True)

    project: str
    machine_id: UUID
    epoch: int
    created_at: datetime
    enforcement: str
    cgroups: tuple[str, ...] = ()


class Spent(BaseModel):
    """`Usage`, on disk."""

    model_config = ConfigDict(frozen=True)

    cpu_s: float
    memory_byte_s: float
    memory_peak_bytes: int
    wall_s: float
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One incarnation's place on disk; nothing needs to be there yet."""

    machines: Path
    machine_id: UUID
    epoch: int

    @property
    def root(self) -> Path:
        return self.machines / str(self.machine_id) / str(self.epoch)

    @property
    def leaf(self) -> str:
        """The name of its control groups."""
        return f"{self.machine_id}.{self.epoch}"

    def make(self, record: Record, uid: int) -> None:
        """Make its directories; harmless when they are there."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        _write(self.root / "record.json", record.model_dump_json())
        for name in WRITABLE:
            (self.root / name).mkdir(exist_ok=True)
            (self.root / name).chmod(0o755)
            if os.geteuid() == 0:
                os.chown(self.root / name, uid, uid)

    def record(self) -> Record | None:
        try:
            return Record.model_validate_json((self.root / "record.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def forget(self) -> None:
        """Drop the record of an incarnation that never started, so that it can be tried again."""
        (self.root / "record.json").unlink(missing_ok=True)

    def last_alive(self) -> datetime | None:
        try:
            return datetime.fromtimestamp((self.root / "alive").stat().st_mtime, UTC)
        except OSError:
            return None

    def spent(self) -> Usage | None:
        """What was written when it was destroyed, or while it ran."""
        try:
            spent = Spent.model_validate_json(self._tombstone.read_bytes())
        except (OSError, ValidationError):
            return None
        return Usage(**spent.model_dump())

    def write_spent(self, usage: Usage) -> None:
        spent = Spent(
            cpu_s=usage.cpu_s,
            memory_byte_s=usage.memory_byte_s,
            memory_peak_bytes=usage.memory_peak_bytes,
            wall_s=usage.wall_s,
            started_at=usage.started_at,
            ended_at=usage.ended_at,
        )
        self._tombstone.parent.mkdir(parents=True, exist_ok=True)
        _write(self._tombstone, spent.model_dump_json())

    @property
    def _tombstone(self) -> Path:
        return self.machines / str(self.machine_id) / f"{self.epoch}.usage.json"


def found(machines: Path) -> Iterator[Incarnation]:
    """Yield every incarnation that has a directory, whether it runs or not."""
    for machine in sorted(machines.iterdir()) if machines.is_dir() else ():
        for epoch in sorted(machine.iterdir()):
            if epoch.is_dir() and epoch.name.isdecimal():
                try:
                    yield Incarnation(machines, UUID(machine.name), int(epoch.name))
                except ValueError:
                    continue


def drop_tombstones(machines: Path) -> None:
    """Forget the usage of incarnations that were destroyed more than a day ago."""
    oldest = time.time() - TOMBSTONE_S
    for tombstone in machines.glob("*/*.usage.json") if machines.is_dir() else ():
        if tombstone.stat().st_mtime < oldest and not tombstone.with_name(tombstone.name.split(".")[0]).exists():
            tombstone.unlink(missing_ok=True)
            if not any(tombstone.parent.iterdir()):
                tombstone.parent.rmdir()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
