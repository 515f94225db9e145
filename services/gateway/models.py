"""Which models there are: what the upstreams say they have, as far as we let it be asked for."""

import time
from collections.abc import Sequence

import aiohttp
import structlog

from services.gateway.context import Dialect
from services.gateway.settings import Upstream
from services.gateway.usage import as_list, as_object, as_text, parsed
from services.kit.errors import KitError

KEPT_S = 300.0
ASK_S = 5.0
MODELS_MAX = 1_000
LISTING_BYTES_MAX = 1024 * 1024
_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")


class Catalogue:
    """Asks upstreams for their models, now and then."""

    def __init__(self, session: aiohttp.ClientSession, upstreams: Sequence[Upstream]) -> None:
        self._session = session
        self._upstreams = upstreams
        self._kept: dict[str, tuple[float, tuple[str, ...]]] = {}

    async def models(self, dialect: Dialect) -> list[str]:
        """Return the names of the models that are offered in this protocol, each once."""
        found: dict[str, None] = {}
        for upstream in self._upstreams:
            if upstream.protocol is dialect:
                found |= dict.fromkeys(await self._of(upstream))
        return list(found)

    async def _of(self, upstream: Upstream) -> tuple[str, ...]:
        kept = self._kept.get(upstream.name)
        if kept is not None and time.monotonic() - kept[0] < KEPT_S:
            return kept[1]
        plain = tuple(pattern for pattern in upstream.models if not set(pattern) & set("*?["))
        if len(plain) == len(upstream.models):
            return plain
        try:
            asked = tuple(name for name in await self._ask(upstream) if upstream.offers(name))
        except (aiohttp.ClientError, TimeoutError, OSError, KitError) as error:
            _log.info("models.unknown", upstream=upstream.name, reason=repr(error))
            return plain
        models = tuple(dict.fromkeys((*plain, *asked)))[:MODELS_MAX]
        self._kept[upstream.name] = (time.monotonic(), models)
        return models

    async def _ask(self, upstream: Upstream) -> list[str]:
        headers = upstream.auth()
        if upstream.protocol is Dialect.ANTHROPIC:
            headers["anthropic-version"] = "2023-06-01"
        async with self._session.get(
            f"{upstream.base_url}/v1/models",
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=ASK_S),
        ) as response:
            body = await response.content.read(LISTING_BYTES_MAX)
        listed = as_list((parsed(body) or {}).get("data"))
        return [name for entry in listed if (name := as_text(as_object(entry).get("id")))]

    @staticmethod
    def listing(dialect: Dialect, names: Sequence[str]) -> dict[str, object]:
        entries = [Catalogue.one(dialect, name) for name in names]
        if dialect is Dialect.OPENAI:
            return {"object": "list", "data": entries}
        first, last = (names[0], names[-1]) if names else (None, None)
        return {"data": entries, "has_more": False, "first_id": first, "last_id": last}

    @staticmethod
    def one(dialect: Dialect, name: str) -> dict[str, object]:
        if dialect is Dialect.OPENAI:
            return {"id": name, "object": "model", "created": 0, "owned_by": "autovibe"}
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
