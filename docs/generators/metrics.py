"""reference/metrics.md: every metric that the code registers, and the recording rules."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from docs.generators.markdown import code, page, table
from docs.generators.source import ROOT, calls, literal

_KINDS = frozenset({"Counter", "Gauge", "Histogram", "Summary"})
_INTRODUCTION = """
Each service that runs alone answers `GET /metrics` on its health port (`AUTOVIBE_HEALTH_PORT`, 8090); the query service
also answers it on its own port, to a key of role admin for every project. Labels come from the code: consumers, routes,
outcomes; never a project, a machine or a text from outside.

`deploy/prometheus/` has a scrape configuration and these recording rules:
"""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as Prometheus shows it."""

    name: str
    kind: str
    about: str
    labels: tuple[str, ...]
    service: str


def metrics() -> list[Metric]:
    return sorted(_found(), key=lambda one: (one.name, one.service))


def text() -> str:
    rows = ((code(one.name), one.kind, one.service, ", ".join(one.labels), one.about) for one in metrics())
    return page(
        "Metrics",
        "the metrics that `services/` registers",
        _INTRODUCTION,
        _rules(),
        table(("metric", "kind", "service", "labels", "what"), rows),
    )


def _found() -> Iterator[Metric]:
    for file, kind, call in calls(("services",), _KINDS):
        texts = [literal(argument) for argument in call.args[:2]]
        if len(texts) < 2 or not texts[0].startswith("autovibe_"):
            continue
        name = texts[0] if kind != "Counter" or texts[0].endswith("_total") else f"{texts[0]}_total"
        service = "every service" if file.parts[1] == "kit" else file.parts[1]
        yield Metric(name, kind.lower(), texts[1], _labels(call), service)


def _labels(call: ast.Call) -> tuple[str, ...]:
    given = (
        call.args[2]
        if len(call.args) > 2
        else next((one.value for one in call.keywords if one.arg == "labelnames"), None)
    )
    return tuple(literal(one) for one in given.elts) if isinstance(given, ast.List | ast.Tuple) else ()


def _rules() -> str:
    """The recording rules, read as the few lines they are."""
    lines = [line.strip() for line in (ROOT / "deploy/prometheus/rules.yml").read_text("utf-8").splitlines()]
    names = [line.removeprefix("- record:").strip() for line in lines if line.startswith("- record:")]
    expressions = [line.removeprefix("expr:").strip() for line in lines if line.startswith("expr:")]
    return table(("rule", "is"), ((code(name), code(it)) for name, it in zip(names, expressions, strict=True)))
