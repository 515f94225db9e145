"""reference/http.md: every operation of the query service's route table."""

from collections.abc import Mapping, Sequence
from typing import cast

from docs.generators.markdown import code, page, table
from services.kit.http import HEALTH_TIMEOUT_S
from services.query.commands import Commands
from services.query.differences import Differences
from services.query.http import BODY_BYTES_MAX, Route
from services.query.letters import Letters
from services.query.live import Live
from services.query.parameters import AT_LEAST_SEQ
from services.query.prices import Prices
from services.query.reads import Reads
from services.query.routes import Handlers, routes
from services.query.status import Status
from snapshots.wire import PREFIX

_INTRODUCTION = f"""
The query service (port 8000) reads the read model and knocks at the door. `GET /openapi.json` is the same as a document
for programs, with every body's schema. How to use it: [report by HTTP](../how-to/report-by-http.md).

- **Who**: `Authorization: Bearer KEY`. A key has a role (`viewer` < `operator` < `admin`) and the projects it is good
  for; what it may not see is answered as if it did not exist. Only `GET /health` needs no key.
- **Commands** (POST, PATCH, DELETE) answer 202 with `uuid` and `seq`, the event's place in the log, also as header
  `Autovibe-Seq`. Any GET takes `{AT_LEAST_SEQ.name}`: it waits until the read model has that event. With a header
  `Idempotency-Key` the same request again is the same event. A body has at most {BODY_BYTES_MAX // 1024} KiB, an event
  256 KiB.
- **Pages**: `limit`, and `next` of the answer as `cursor`. They are stable while things change.
- **Refusals** are problem documents (RFC 9457) with a `code`: [errors.md](errors.md).
- Exact numbers are strings. Times are RFC 3339.
"""

_ASIDE = f"""
Beside the table:

| | |
| --- | --- |
| `GET /health` | No key. Whether this service can answer: 200 or 503. |
| `GET /metrics` | Prometheus; role admin, a key for every project. |
| `GET /openapi.json` | This, for programs; any key. |

On the health port of every service that runs alone (`AUTOVIBE_HEALTH_PORT`): `/healthz` (the process answers),
`/readyz` (all parts are well, else 503 and which is not; answered within {HEALTH_TIMEOUT_S:g} s), `/metrics`.

The checkpointer (port 8001) exchanges chunks below `{PREFIX}`: any good key may read, operators and admins may write.
`project create --from`, `run --file` and `checkpoint export` use it; `snapshots/endpoint.py` says how.
"""


def operations() -> tuple[Route, ...]:
    """Return the route table; its handlers are never called, so they need nothing behind them."""
    return tuple(
        routes(
            Handlers(
                reads=Reads.__new__(Reads),
                commands=Commands.__new__(Commands),
                live=Live.__new__(Live),
                differences=Differences.__new__(Differences),
                letters=Letters.__new__(Letters),
                status=Status.__new__(Status),
                prices=Prices.__new__(Prices),
            )
        )
    )


def text() -> str:
    rows = (
        (f"`{one.method} {one.path}`", one.summary, one.role.value + (", all projects" if one.everything else ""))
        for one in operations()
    )
    return page(
        "HTTP",
        "`services/query/routes.py`",
        _INTRODUCTION,
        table(("operation", "what", "role"), rows),
        _ASIDE,
        *(_section(one) for one in operations()),
    )


def _section(one: Route) -> str:
    parts = [f"## {one.method} {one.path}", f"{one.summary}. Answers {one.status}, `{one.answers}`."]
    if one.parameters:
        parts.append(
            table(
                ("parameter", "", "is"),
                ((code(it.name), "needed" if it.required else "", it.expects) for it in one.parameters),
            )
        )
    if one.body is not None:
        parts.append(_body(one.body))
    return "\n\n".join(parts)


def _body(body: Mapping[str, object]) -> str:
    properties = cast("Mapping[str, object]", body.get("properties", {}))
    needed = cast("Sequence[str]", body.get("required", ()))
    said = "Body: " + (", ".join(code(name) for name in properties) or "none")
    return said + (f"; needed: {', '.join(code(name) for name in needed)}." if needed else ".")
