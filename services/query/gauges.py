"""What the query service measures: its own answers, and the machines that the read model calls active."""

import asyncio
from collections.abc import Iterator

import structlog
from prometheus_client import Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric

from services.kit.metrics import Metrics
from services.query.database import Database
from services.query.problems import HttpProblem
from services.query.streaming import Streams

LOOK_S = 5.0
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_SQL_ACTIVE = (
    "SELECT count(*) FROM intelligent_machines WHERE status IN ('spawning', 'active', 'working', 'checkpointing')"
)

_SQL_USAGE = "SELECT resource_type, unit, sum(amount) FROM usage_totals GROUP BY resource_type, unit"

_log: structlog.stdlib.BoundLogger = structlog.get_logger("query")


class Gauges:
    """Registered with the service's metrics."""

    def __init__(self, metrics: Metrics, streams: Streams) -> None:
        self._duration = Histogram(
            "autovibe_api_duration_seconds",
            "From request to answer; of streams, to their beginning",
            ["method", "route", "status"],
            buckets=BUCKETS_S,
            registry=metrics.registry,
        )
        self._children: dict[tuple[str, str, int], Histogram] = {}
        self._active = Gauge(
            "autovibe_machines_active", "Machines that neither ended nor are parked", registry=metrics.registry
        )
        self._usage: list[tuple[str, str, float]] = []
        metrics.registry.register(self)
        open_streams = Gauge("autovibe_api_streams_open", "Responses that go on", registry=metrics.registry)
        open_streams.set_function(lambda: streams.open)

    def collect(self) -> Iterator[Metric]:
        """What all machines used so far, as the read model had it at the last look: only ever grows."""
        usage = CounterMetricFamily("autovibe_resource_usage", "What machines used", labels=["resource_type", "unit"])
        for resource, unit, amount in self._usage:
            usage.add_metric([resource, unit], amount)
        yield usage

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        key = (method, path, status)
        child = self._children.get(key)
        if child is None:
            child = self._children.setdefault(key, self._duration.labels(method, path, str(status)))
        child.observe(seconds)

    async def follow(self, database: Database) -> None:
        """Look at the read model every `LOOK_S`, for ever."""
        while True:
            try:
                row = await database.one(_SQL_ACTIVE, {})
                self._active.set(int(str(row[0])) if row else 0)
                rows = await database.rows(_SQL_USAGE, {})
                self._usage = [(str(resource), str(unit), float(str(amount))) for resource, unit, amount in rows]
            except HttpProblem as problem:
                _log.info("gauges.stale", reason=problem.message)
            await asyncio.sleep(LOOK_S)
