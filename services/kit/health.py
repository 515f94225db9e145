"""Whether a service is well, and the small HTTP server that says so."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One thing a service needs or does."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """All parts; a service is well when each is."""

    parts: tuple[Part, ...] = ()

    @property
    def ok(self) -> bool:
        return all(part.ok for part in self.parts)

    def __add__(self, other: "Health") -> "Health":
        return Health(self.parts + other.parts)

    def json(self) -> dict[str, object]:
        return {
            "ok": self.ok,
            "parts": [{"name": part.name, "ok": part.ok, "detail": part.detail} for part in self.parts],
        }
