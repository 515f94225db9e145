"""How the person who runs the stack reaches it: an API key made once, the operator's creds, addresses."""

import http.client
import json
from pathlib import Path
from urllib.parse import urlsplit

from cli.context import Context
from cli.stack import models
from cli.stack.places import Places
from events import ids
from events.address import Address
from events.fresh import uuid7
from services.kit.bus import Bus, BusSettings

KEY_NAME = "local operator"
KEY_TTL_S = 365 * 86_400
ISSUE_S = 10.0
LOOK_S = 5.0
HTTP_OK = 200


async def context(places: Places, data: Path) -> Context:
    """Return how to reach the running stack; the API key of an earlier start is kept while it is good."""
    url = f"http://{places.host}:{places.http_port}"
    return Context(
        url=url,
        store_url=f"http://{places.host}:{places.store_port}",
        api_key=_kept_key(data, url) or await _new_key(places),
        nats_url=places.nats_url,
        creds=str(data / "creds" / "operator.creds"),
        data=str(data),
        hub_creds=str(places.nats_creds or ""),
        database_url=places.database_url,
        gateway_url=f"http://{places.host}:{places.gateway_port}",
        models=models.described(),
    )


def _kept_key(data: Path, url: str) -> str:
    try:
        found = json.loads((data / "client.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return ""
    key = str(found.get("api_key", ""))
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=LOOK_S)
    try:
        connection.request("GET", "/api/v1/status", headers={"Authorization": f"Bearer {key}"})
        return key if connection.getresponse().status == HTTP_OK else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


async def _new_key(places: Places) -> str:
    settings = BusSettings(nats_url=places.nats_url, nats_creds=places.nats_creds)
    subject = Address(ids.HUB, "credential", str(uuid7())).subject("CredentialRequested", "ask")
    asked: dict[str, object] = {
        "kind": "api_key",
        "name": KEY_NAME,
        "role": "admin",
        "projects": [],
        "ttl_s": KEY_TTL_S,
    }
    async with Bus.connect(settings, name="stack-access") as bus:
        reply = await bus.nc.request(subject, json.dumps(asked).encode(), timeout=ISSUE_S)
    answer = json.loads(reply.data or b"{}")
    if "api_key" not in answer:
        raise RuntimeError(f"the issuer gave no API key: {dict(reply.headers or {})} {reply.data[:300]!r}")
    return str(answer["api_key"])
