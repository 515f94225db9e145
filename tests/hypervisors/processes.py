"""What runs on this host, as /proc has it."""

from pathlib import Path
from uuid import UUID


def of_machine(machine_id: UUID) -> list[int]:
    """Processes that have this machine's directories mounted: all of its sandbox, whoever they run as."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                mounts = (entry / "mountinfo").read_text()
            except OSError:
                continue
            if str(machine_id) in mounts and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0].startswith("Z")
    except OSError:
        return False
