"""`python -m bench [NAME …]`: run the measurements one after the other, all without a name. `make bench` does it."""

import subprocess
import sys

ALL = ("append", "gateway", "hub", "ledger", "projector", "query", "spawn", "snapshots")


def main(names: list[str]) -> int:
    """Return 1 when a measurement could not be made or missed its goal, 2 for a name there is not."""
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"there is no {', '.join(unknown)}; there are {', '.join(ALL)}")
        return 2
    worst = 0
    for name in names or ALL:
        print(f"\n== python -m bench.{name}", flush=True)
        worst = max(worst, min(1, subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode))
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
