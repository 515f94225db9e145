"""Raw requests over one connection: own inbox, prebuilt bytes, a callback instead of a task per reply."""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, cast

import orjson

from schema.streams import Json
from services.kit.client import SturdyClient
from services.kit.errors import Refused, Transient

API_TIMEOUT_S = 5.0
JSON: TypeAlias = Mapping[str, object]


class Reply(NamedTuple):
    """A message as it came; `header` is the whole block, empty when there is none."""

    subject: bytes
    header: bytes
    data: bytes

    @property
    def status(self) -> int:
        """The inline status (`NATS/1.0 404 …`) or 0."""
        first = self.header[9:12]
        return int(first) if first.isdigit() else 0


OnReply: TypeAlias = Callable[[Reply | None], bool]
"""Called per reply, with None when the connection is lost; returns whether more replies are expected."""


class ApiError(Exception):
    """An error answer of the JetStream API."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({code}/{err_code})")
        self.code = code
        self.err_code = err_code


def parse_headers(block: bytes) -> dict[str, str]:
    """Return the headers of a block; odd bytes are escaped, the first of several of one name wins."""
    headers: dict[str, str] = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(
                name.decode("utf-8", "backslashreplace").strip(), value.decode("utf-8", "backslashreplace").strip()
            )
    return headers


class Wire:
    """Requests by token; replies are matched in the read loop."""

    def __init__(self, client: SturdyClient) -> None:
        self.client = client
        self._waiting: dict[bytes, OnReply] = {}
        self._tokens = itertools.count(1)
        self._prefix = b""

    async def open(self) -> None:
        prefix = self.client.new_inbox()
        self._prefix = prefix.encode() + b"."
        await self.client.subscribe_raw(f"{prefix}.*", self._on_reply)
        self.client.on_disconnect.append(self._on_disconnect)

    def expect(self, on_reply: OnReply) -> tuple[bytes, bytes]:
        """Register for replies. Returns the token (for `forget`) and the reply subject."""
        token = b"%x" % next(self._tokens)
        self._waiting[token] = on_reply
        return token, self._prefix + token

    def forget(self, token: bytes) -> None:
        self._waiting.pop(token, None)

    def _on_reply(self, subject: bytes, _reply: bytes, header: bytes, payload: bytes) -> None:
        token = subject[subject.rfind(b".") + 1 :]
        on_reply = self._waiting.get(token)
        if on_reply is not None and not on_reply(Reply(subject, header, payload)):
            self._waiting.pop(token, None)

    def _on_disconnect(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for on_reply in waiting.values():
            on_reply(None)

    async def request(self, subject: str, payload: bytes = b"", timeout_s: float = API_TIMEOUT_S) -> Reply:
        """Ask and return the one answer.

        Raises:
            Transient: No answer in time, nobody listens, or the connection was lost; the outcome is unknown.
        """
        return await self.publish(subject, b"", payload, timeout_s)

    async def publish(self, subject: str, header: bytes, payload: bytes, timeout_s: float = API_TIMEOUT_S) -> Reply:
        """Send with a prebuilt header block (or none) and return the answer; raises as `request`."""
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

        def on_reply(reply: Reply | None) -> bool:
            if not future.done():
                future.set_result(reply)
            return False

        token, inbox = self.expect(on_reply)
        target = b"%b %b" % (subject.encode(), inbox)
        if header:
            sizes = b"%d %d" % (len(header), len(header) + len(payload))
            command = b"HPUB %b %b\r\n%b%b\r\n" % (target, sizes, header, payload)
        else:
            command = b"PUB %b %d\r\n%b\r\n" % (target, len(payload), payload)
        try:
            if not self.client.send_now(command):
                raise Transient(f"not connected to NATS: {subject} was not asked")
            async with asyncio.timeout(timeout_s):
                reply = await future
        except TimeoutError:
            raise Transient(f"no answer to {subject} within {timeout_s} s") from None
        finally:
            self.forget(token)
        if reply is None:
            raise Transient(f"the connection was lost while {subject} was asked")
        if reply.status == 503:
            raise Transient(f"nobody answers {subject}: the service, or JetStream, is not there or not ready")
        return reply

    async def api(self, subject: str, body: Json = None, timeout_s: float = API_TIMEOUT_S) -> JSON:
        """Ask the JetStream API.

        Raises:
            ApiError: It refused.
            Transient: As `request`.
        """
        reply = await self.request(f"$JS.API.{subject}", b"" if body is None else orjson.dumps(body), timeout_s)
        answer: JSON = orjson.loads(reply.data)
        error = answer.get("error")
        if error is not None:
            raise api_error(mapping(error))
        return answer


def api_error(error: Mapping[str, object]) -> ApiError:
    return ApiError(
        int(str(error.get("code", 0))), int(str(error.get("err_code", 0))), str(error.get("description", ""))
    )


def text(value: object) -> str:
    """Narrow a JSON value that must be a string."""
    if not isinstance(value, str):
        raise Refused(f"the server answered {value!r} where a string belongs")
    return value


def integer(value: object) -> int:
    """Narrow a JSON value that must be an integer."""
    if not isinstance(value, int):
        raise Refused(f"the server answered {value!r} where a number belongs")
    return value


def mapping(value: object) -> JSON:
    """Narrow a JSON value that must be an object."""
    if not isinstance(value, dict):
        raise Refused(f"the server answered {value!r} where an object belongs")
    return cast("JSON", value)
