"""What bench.gateway was to find and what it has found: ratios and differences within each round, and of these the median."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.gateway_load import MACHINES, STREAMS_OPEN, Run, Variant

Column = Callable[[Run], float]


@dataclass(frozen=True, slots=True)
class Goal:
    """A number, and where it should be."""

    what: str
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def is_reached(self) -> bool:
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    def __str__(self) -> str:
        goal = f"at most {self.most:g}" if self.most is not None else f"at least {self.least:g}"
        return f"{self.what:66}{self.value:9.2f}  goal {goal:13} {'reached' if self.is_reached else 'MISSED'}"


def report(variants: list[Variant], kind: str) -> None:
    print(
        f"\n{kind:14}{'p50 ms':>9}{'first ms':>10}{'calls/s':>9}{'CPU ms':>8}   (calls/s and CPU with {MACHINES} at once)"
    )
    for each in variants:
        p50, first, per_s, cpu = (statistics.median(map(of, each.runs[kind])) for of in (_p50, _first, _per_s, _cpu))
        print(f"{each.name:14}{p50:9.2f}{first:10.2f}{per_s:9.0f}{cpu:8.2f}")


def goals(variants: list[Variant], kinds: tuple[str, ...], open_mib: Mapping[str, float]) -> list[Goal]:
    by_name = {each.name: each for each in variants}
    found: list[Goal] = []
    for kind in kinds:
        for name, most_ms, least in (("memory", 2.0, 25.0), ("durable", 10.0, 10.0)):
            ours, direct = by_name[name], by_name["direct"]
            found.append(Goal(f"{kind}: {name} adds to the p50, ms", _beyond(ours, direct, kind, _p50), most_ms))
            if peer := by_name.get("LiteLLM"):
                times = _times(ours, peer, kind, _per_s)
                found.append(Goal(f"{kind}: {name} / LiteLLM, calls/s with {MACHINES} at once", times, least=least))
    floor = by_name["pass-through"]
    for name in ("memory", "durable"):
        more = _beyond(by_name[name], floor, "stream", _cpu)
        found.append(Goal(f"stream: CPU of {name} beyond the pass-through, ms", more, 1.0))
    late = _times(by_name["slow"], by_name["memory"], "stream", _first)
    found.append(Goal("stream: first chunk where settling takes 500 ms / where none", late, 1.25))
    found += [Goal(f"{name}: memory with {STREAMS_OPEN} streams open, MiB", mib, 100) for name, mib in open_mib.items()]
    return found


def _beyond(ours: Variant, other: Variant, kind: str, of: Column) -> float:
    return statistics.median(of(mine) - of(its) for mine, its in zip(ours.runs[kind], other.runs[kind], strict=True))


def _times(ours: Variant, other: Variant, kind: str, of: Column) -> float:
    return statistics.median(of(mine) / of(its) for mine, its in zip(ours.runs[kind], other.runs[kind], strict=True))


def _p50(run: Run) -> float:
    return run.p50_ms


def _first(run: Run) -> float:
    return run.first_ms


def _per_s(run: Run) -> float:
    return run.per_s


def _cpu(run: Run) -> float:
    return run.cpu_ms
