"""Talking to a provider: what of a client's headers is passed on, with our credential; and what of the answer's."""

import asyncio
import io
from collections.abc import Mapping

import aiohttp

from services.gateway.settings import Upstream

WHOLE_BYTES_MAX = 1024 * 1024
ERROR_BYTES_MAX = 1024 * 1024
_PASSED = frozenset({"accept", "content-type", "user-agent", "x-app"})
_PASSED_PREFIXES = ("anthropic-", "x-stainless-", "x-claude-")
_NOT_BACK = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "server",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Upstreamless(Exception):
    """No answer came from the provider."""

    def __init__(self, message: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.was_sent = was_sent
        """Whether the provider may have the request, and work."""


def request_headers(headers: Mapping[str, str], upstream: Upstream) -> dict[str, str]:
    """Return what is sent: the client's own that matter, our credential, and no compression, which could not be metered."""
    passed = {
        name: value
        for name, value in headers.items()
        if name.lower() in _PASSED or name.lower().startswith(_PASSED_PREFIXES)
    }
    return {**passed, "accept-encoding": "identity", **upstream.auth()}


def answer_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_BACK}


async def send(
    session: aiohttp.ClientSession, upstream: Upstream, path_qs: str, body: bytes, headers: Mapping[str, str]
) -> aiohttp.ClientResponse:
    """Send a request, and return its answer once status and headers are there; the caller closes it.

    Raises:
        Upstreamless: No answer.
    """
    try:
        return await session.post(
            upstream.base_url + path_qs,
            # aiohttp writes bytes in one go, and warns of it beyond a mebibyte.
            data=io.BytesIO(body) if len(body) > WHOLE_BYTES_MAX else body,
            headers=request_headers(headers, upstream),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=upstream.connect_s, sock_read=upstream.silence_s),
        )
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
        raise Upstreamless(f"{upstream.name} cannot be reached: {error}", was_sent=False) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        said = f"{upstream.name} gave no answer: {error!r}"
        raise Upstreamless(said, was_sent=True) from error


async def whole(response: aiohttp.ClientResponse, bytes_max: int, call_s: float) -> bytes:
    """Read an answer to its end.

    Raises:
        Upstreamless: It broke off, or is longer than `bytes_max`.
    """
    parts: list[bytes] = []
    size_bytes = 0
    try:
        async with asyncio.timeout(call_s):
            async for chunk in response.content.iter_any():
                parts.append(chunk)
                size_bytes += len(chunk)
                if size_bytes > bytes_max:
                    raise Upstreamless(f"an answer of more than {bytes_max} bytes", was_sent=True)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Upstreamless(f"the answer broke off after {size_bytes} bytes: {error!r}", was_sent=True) from error
    return b"".join(parts)
