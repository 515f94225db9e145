"""The gateway's metrics; labels are names from the configuration and words of ours."""

from prometheus_client import Counter, Gauge, Histogram

from events.words import CreationContext
from services.gateway.context import InFlight
from services.kit.metrics import Metrics

_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 15, 60, 300)


class Meters:
    """What is counted of calls."""

    def __init__(self, metrics: Metrics, in_flight: InFlight) -> None:
        registry = metrics.registry
        self._answers = Counter(
            "autovibe_model_answers", "Answers of providers; 0: none came", ["upstream", "status"], registry=registry
        )
        self._refused = Counter(
            "autovibe_model_calls_refused", "Model calls that were not made", ["upstream", "kind"], registry=registry
        )
        self._settled = Counter(
            "autovibe_model_calls_settled",
            "Model calls that were settled, by whether their use is an estimate",
            ["upstream", "estimated"],
            registry=registry,
        )
        self._waits = Counter(
            "autovibe_model_rate_waits",
            "Short rate limits of providers that were waited out",
            ["upstream"],
            registry=registry,
        )
        self._missed = Counter(
            "autovibe_model_checkpoints_missed",
            "Captures between model calls or before risk that did not come about; the call went on",
            ["context"],
            registry=registry,
        )
        self._held = Histogram(
            "autovibe_model_held_seconds",
            "How long model calls were held before they were forwarded: checkpoint, turn, budget",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._first = Histogram(
            "autovibe_model_first_chunk_seconds",
            "How long providers took to say the first of a stream",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        Gauge("autovibe_model_calls_open", "Model calls open now", registry=registry).set_function(
            lambda: in_flight.total
        )
        Gauge("autovibe_model_machines_calling", "Machines with an open model call", registry=registry).set_function(
            lambda: in_flight.machines
        )

    def answered(self, upstream: str, status: int) -> None:
        self._answers.labels(upstream, str(status) if 200 <= status < 600 else "0").inc()

    def refused(self, upstream: str, kind: str) -> None:
        self._refused.labels(upstream, kind).inc()

    def settled(self, upstream: str, *, estimated: bool) -> None:
        self._settled.labels(upstream, "yes" if estimated else "no").inc()

    def waited_out(self, upstream: str) -> None:
        self._waits.labels(upstream).inc()

    def checkpoint_missed(self, context: CreationContext) -> None:
        self._missed.labels(context.value).inc()

    def held(self, seconds: float) -> None:
        self._held.observe(seconds)

    def first_chunk(self, seconds: float) -> None:
        self._first.observe(seconds)
