"""Prometheus metrics of one service, in a registry of their own; labels come from our code, never from messages."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What every service counts; services register their own in `registry`."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()
        self.service = service
        self._handled = Counter(
            "autovibe_messages_handled",
            "Messages by consumer and outcome: ok, later, transient, failed, buried, rejected, dropped",
            ["service", "consumer", "outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "autovibe_handler_seconds",
            "How long handlers took",
            ["service", "consumer"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._lag = Gauge(
            "autovibe_consumer_lag", "Messages not yet delivered", ["service", "consumer"], registry=self.registry
        )

    def handled(self, consumer: str, outcome: str, seconds: float) -> None:
        self._handled.labels(self.service, consumer, outcome).inc()
        if seconds:
            self._seconds.labels(self.service, consumer).observe(seconds)

    def lag(self, consumer: str, messages: int) -> None:
        self._lag.labels(self.service, consumer).set(messages)

    def text(self) -> bytes:
        return generate_latest(self.registry)
