"""How often each project may knock: a token bucket by the monotonic clock."""

from collections import OrderedDict
from collections.abc import Callable

from events.records import Problem

PROJECTS_MAX = 10_000
"""Buckets kept; the project that knocked longest ago is forgotten first, and with it that it was ever fast."""


class Rate:
    """`burst` knocks at once, `per_s` in the long run; one project's haste is not another's."""

    def __init__(self, *, per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, project: str) -> Problem | None:
        """Take a token, or say that there is none."""
        now = self._clock()
        tokens, at = self._buckets.pop(project, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - at) * self._per_s)
        allowed = tokens >= 1
        self._buckets[project] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > PROJECTS_MAX:
            self._buckets.popitem(last=False)
        return None if allowed else self._problem(project, (1 - tokens) / self._per_s)

    def _problem(self, project: str, wait_s: float) -> Problem:
        return Problem(
            code="rate",
            message=f"{project[:63]} knocks more than {self._per_s:g} times a second, after a burst of {self._burst}",
            field="project",
            value=project[:63],
            limit=f"{self._per_s:g}/s, burst {self._burst}",
            remedy=f"wait {wait_s:.2f} s and ask again",
        )
