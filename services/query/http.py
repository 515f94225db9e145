"""The edge of the HTTP API: routes as data, who may call them, how errors leave.

A route's handler gets an `Asked`: parameters already checked, the caller known and allowed. What it raises as
`HttpProblem` becomes a problem document. The OpenAPI document is made from the same table (`services.query.openapi`).
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

import orjson
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from events.words import Role
from services.kit.apikeys import Principal
from services.kit.errors import Transient
from services.kit.wire import ApiError
from services.query.parameters import AT_LEAST_SEQ, Parameter, read_all
from services.query.position import Position
from services.query.problems import HttpProblem, not_found, unavailable

JSON = "application/json"
BODY_BYTES_MAX = 1_048_576
"""The door refuses at 256 KiB and can say so; this only keeps floods out of memory."""
QUERY_BYTES_MAX = 8_192
RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}

_log: structlog.stdlib.BoundLogger = structlog.get_logger("query")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks and what of the hub they may see."""

    name: str
    role: Role
    projects: tuple[str, ...] | None
    """Slugs; None: every project."""
    credential_id: str = ""

    @staticmethod
    def of(principal: Principal) -> "Caller":
        everything = principal.role is Role.ADMIN and not principal.projects
        projects = None if everything else tuple(sorted(principal.projects))
        return Caller(principal.name, principal.role, projects, principal.credential_id)

    def may_see(self, slug: str) -> bool:
        return self.projects is None or slug in self.projects

    def must_see(self, slug: str) -> str:
        """Return the slug; a project of others is answered exactly like one that does not exist."""
        if not self.may_see(slug):
            raise not_found("project", slug)
        return slug


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that may be answered."""

    request: Request
    caller: Caller
    values: Mapping[str, object]
    """The query parameters that were given, by name, as their parsers read them."""
    still_good: Callable[[], bool]
    """Whether the key would be accepted now; what goes on for hours asks again."""

    @property
    def id(self) -> str:
        """The path's parameter."""
        return str(self.request.path_params["id"])

    def number(self, name: str, default: int) -> int:
        return cast("int", self.values.get(name, default))

    def text(self, name: str) -> str | None:
        return cast("str | None", self.values.get(name))


Handler = Callable[[Asked], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the API."""

    method: str
    path: str
    handler: Handler
    summary: str
    role: Role = Role.VIEWER
    everything: bool = False
    """Only for keys that see every project."""
    parameters: tuple[Parameter, ...] = ()
    """Its own; `at_least_seq` is taken everywhere."""
    body: Mapping[str, object] | None = None
    """JSON Schema of the request body."""
    answers: str = JSON
    answer: Mapping[str, object] = field(default_factory=dict[str, object])
    """JSON Schema of the answer; empty: anything."""
    status: int = 200

    @property
    def declared(self) -> dict[str, Parameter]:
        """Every query parameter that is taken, by name."""
        return {parameter.name: parameter for parameter in (*self.parameters, AT_LEAST_SEQ)}


class Keys(Protocol):
    """Who holds an API key."""

    def authenticate(self, bearer: str) -> Principal | None: ...


class Duration(Protocol):
    """Where the time of a request is counted; labels are route templates, never concrete paths."""

    def observe(self, method: str, path: str, status: int, seconds: float) -> None: ...


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, JSON)


class Endpoint:
    """All operations of one path, as an ASGI application: authentication, role, parameters, errors, duration."""

    def __init__(self, routes: list[Route], keys: Keys, position: Position, duration: Duration) -> None:
        self._routes = {route.method: route for route in routes}
        self._declared = {route.method: route.declared for route in routes}
        self._keys = keys
        self._position = position
        self._duration = duration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        method = "GET" if scope["method"] == "HEAD" else str(scope["method"])
        route = self._routes.get(method)
        if route is None:
            response = wrong_method(", ".join(self._routes)).response()
        else:
            response = await self._guarded(route, Request(scope, receive, send))
            self._duration.observe(method, route.path, response.status_code, time.perf_counter() - started)
        await response(scope, receive, send)

    async def _guarded(self, route: Route, request: Request) -> Response:
        try:
            return await route.handler(await self._asked(route, request))
        except HttpProblem as problem:
            return problem.response()
        except (Transient, ApiError, TimeoutError) as error:
            _log.warning("bus.unreachable", path=route.path, reason=str(error)[:300])
            return unavailable("the bus cannot be reached").response()
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:  # noqa: BLE001
            # The edge: whoever asks gets an answer, and one bad request does not end the service.
            _log.exception("request.failed", path=route.path)
            return HttpProblem(
                500, "internal", "this went wrong here; the log of the query service says why"
            ).response()

    async def _asked(self, route: Route, request: Request) -> Asked:
        caller, still_good = self._caller(route, request)
        if len(request.scope["query_string"]) > QUERY_BYTES_MAX:
            raise HttpProblem(414, "too_large", "the query is too long", limit=f"{QUERY_BYTES_MAX} bytes")
        values = read_all(self._declared[route.method], request.query_params.multi_items())
        seq = values.get(AT_LEAST_SEQ.name)
        if isinstance(seq, int):
            await self._position.at_least(seq)
        return Asked(request, caller, values, still_good)

    def _caller(self, route: Route, request: Request) -> tuple[Caller, Callable[[], bool]]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        bearer = token.strip()
        principal = self._keys.authenticate(bearer) if scheme.lower() == "bearer" and bearer else None
        if principal is None:
            raise unauthenticated()
        caller = Caller.of(principal)
        if RANK[caller.role] < RANK[route.role]:
            raise HttpProblem(
                403, "not_allowed", f"this needs the role {route.role}, the key has {caller.role}", value=caller.role
            )
        if route.everything and caller.projects is not None:
            raise HttpProblem(403, "not_allowed", "this needs a key for every project: role admin and no project named")
        return caller, lambda: self._keys.authenticate(bearer) == principal


def unauthenticated() -> HttpProblem:
    return HttpProblem(
        401,
        "unauthenticated",
        "this needs an API key that is known and has neither ended nor been revoked",
        remedy="send Authorization: Bearer KEY; autovibe credentials create NAME --kind api_key makes one",
        headers={"WWW-Authenticate": "Bearer"},
    )


def wrong_method(allowed: str) -> HttpProblem:
    return HttpProblem(405, "wrong_method", f"there is only {allowed} here", headers={"Allow": allowed})


async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every path that there is not."""
    problem = HttpProblem(404, "not_found", "there is no such path", remedy="GET /openapi.json lists them all")
    await problem.response()(scope, receive, send)


async def read_object(request: Request) -> dict[str, object]:
    """Return the JSON object in the body.

    Raises:
        HttpProblem: Too large, not JSON, or no object.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise HttpProblem(
                413, "too_large", f"the body is larger than {BODY_BYTES_MAX} bytes", limit=f"{BODY_BYTES_MAX} bytes"
            )
    try:
        content: object = orjson.loads(bytes(body))
    except orjson.JSONDecodeError as error:
        raise HttpProblem(400, "bad_body", f"the body is not JSON: {error}"[:400]) from error
    if not isinstance(content, dict):
        raise HttpProblem(400, "bad_body", f"the body is a JSON {type(content).__name__}, not an object")
    return cast("dict[str, object]", content)
