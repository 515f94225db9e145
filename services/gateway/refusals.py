"""Refusals in the words of whoever asked: each ends a client with one request, or makes it ask again, as is meant.

Source: what the agents' command lines do by status was measured; 400 `billing_error` with `x-should-retry: false` is the
only answer that ends each of them after one request and shows the message.
"""

from dataclasses import dataclass

import orjson

from services.gateway.context import Dialect

_NEVER = {"x-should-retry": "false"}
_KINDS = {
    "invalid_request_error": 400,
    "billing_error": 400,
    "authentication_error": 401,
    "not_found_error": 404,
    "request_too_large": 413,
    "api_error": 502,
    "overloaded_error": 503,
    "timeout_error": 504,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not made, and whether to ask again."""

    kind: str
    message: str
    retry_after_s: int | None = None
    """None: never."""
    code: str = ""
    """For programs that speak OpenAI's; `kind` where it is empty."""

    @property
    def status(self) -> int:
        return _KINDS[self.kind]

    def headers(self) -> dict[str, str]:
        return dict(_NEVER) if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}

    def told(self) -> dict[str, str]:
        """Return what is logged of it."""
        return {"kind": self.kind, "reason": self.message[:300]}

    def body(self, dialect: Dialect) -> bytes:
        if dialect is Dialect.ANTHROPIC:
            return orjson.dumps({"type": "error", "error": {"type": self.kind, "message": self.message}})
        return orjson.dumps(
            {
                "error": {
                    "message": self.message,
                    "type": self.kind,
                    "param": None,
                    "code": self.code or self.kind,
                }
            }
        )

    def event(self, dialect: Dialect) -> bytes:
        """Return it as an event of a stream that has already begun."""
        prefix = b"event: error\n" if dialect is Dialect.ANTHROPIC else b""
        return prefix + b"data: " + self.body(dialect) + b"\n\n"


class RefusedCall(Exception):
    """The call is not made; `refusal` is what the client is told."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def unauthenticated(reason: str) -> Refusal:
    return Refusal("authentication_error", reason)


def out_of_budget(message: str) -> Refusal:
    return Refusal("billing_error", message)


def not_to_be_had(code: str, message: str) -> Refusal:
    """No model for this call, now or later. In the one shape that ends each client with one request: others ask six times."""
    return Refusal("billing_error", message, code=code)


def invalid(message: str) -> Refusal:
    return Refusal("invalid_request_error", message)


def model_not_allowed(model: str, project: str) -> Refusal:
    said = f"project {project} may not use model {model[:200]}; `autovibe project set {project} --models-allowed …` lets it"
    return not_to_be_had("model_not_allowed", said)


def model_not_offered(model: str) -> Refusal:
    return not_to_be_had("model_not_found", f"no upstream offers model {model[:200]}")


def too_large(limit_bytes: int) -> Refusal:
    return Refusal("request_too_large", f"a request may have at most {limit_bytes} bytes")


def unreachable(what: str) -> Refusal:
    return Refusal("overloaded_error", f"{what}; nothing was spent, ask again", retry_after_s=2)
