"""Errors as RFC 9457 problem documents: what was asked, what stood against it, what to do."""

import dataclasses
from dataclasses import dataclass

import orjson
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


@dataclass(slots=True, eq=False)
class HttpProblem(Exception):
    """An answer that is not the one hoped for; the edge turns it into a response."""

    status: int
    code: str
    message: str
    field: str = ""
    value: str = ""
    limit: str = ""
    remedy: str = ""
    headers: dict[str, str] = dataclasses.field(default_factory=dict[str, str])

    def response(self) -> Response:
        document = {
            "type": f"urn:autovibe:problem:{self.code}",
            "title": self.code.replace("_", " "),
            "status": self.status,
            "detail": self.message,
            "code": self.code,
            "field": self.field,
            "value": self.value,
            "limit": self.limit,
            "remedy": self.remedy,
        }
        body = orjson.dumps({name: value for name, value in document.items() if value != ""})
        return Response(body, status_code=self.status, media_type=MEDIA_TYPE, headers=self.headers)


def not_found(kind: str, name: str, remedy: str = "") -> HttpProblem:
    return HttpProblem(404, "not_found", f"there is no {kind} {name[:200]!r} that this key may see", remedy=remedy)


def ambiguous(kind: str, name: str) -> HttpProblem:
    return HttpProblem(
        409,
        "ambiguous",
        f"more than one {kind} begins with {name[:40]!r}",
        value=name[:40],
        remedy="write more of the id",
    )


def bad_parameter(name: str, value: str, limit: str) -> HttpProblem:
    return HttpProblem(
        400,
        "bad_parameter",
        f"{name[:80]}={value[:200]!r} is not {limit}",
        field=name[:80],
        value=value[:200],
        limit=limit,
    )


def unavailable(message: str, remedy: str = "try again") -> HttpProblem:
    return HttpProblem(503, "unavailable", message, remedy=remedy, headers={"Retry-After": "1"})


STATUS_OF_CODE = {
    "no_such_project": 404,
    "no_such_machine": 404,
    "no_such_checkpoint": 404,
    "no_such_credential": 404,
    "bad_subject": 422,
    "id_reused": 409,
    "conflict": 409,
    "exists": 409,
    "project_paused": 409,
    "project_archived": 409,
    "rate": 429,
    "unavailable": 503,
    "internal": 503,
    "too_large": 413,
    "not_allowed": 403,
}
"""HTTP status of the door's refusals; every other code is 422."""
