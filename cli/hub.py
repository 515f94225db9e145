"""The hub as the command line sees it: HTTP and nothing else, on the standard library so that a command starts fast."""

import http.client
import json
import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

from cli import context
from cli.exits import EXIT_OF_STATUS, CliError, Exit

TIMEOUT_S = 30.0
STREAM_SILENCE_S = 60.0
"""A stream says something (a comment, a blank line) at least every 15 s."""
ATTEMPTS_MAX = 3

Json = dict[str, Any]  # JSON from our own API, looked at field by field where it is shown


class Hub:
    """One hub over HTTP. Every call opens its own connection; a command makes a handful of them."""

    def __init__(self, here: context.Context) -> None:
        self.context = here
        self._url = urlsplit(here.url)

    def get(self, path: str, **parameters: object) -> Json:
        """Return the JSON of a read.

        Raises:
            CliError: The hub cannot be reached, or it refused; the exit code says which.
        """
        return self._retried("GET", _with(path, parameters), None, {})

    def post(self, path: str, body: Mapping[str, object], *, method: str = "POST") -> Json:
        """Send a command; it carries an idempotency key, so that a repeat after a lost answer is the same command."""
        content = json.dumps(body).encode()
        return self._retried(method, path, content, {"Idempotency-Key": str(uuid.uuid4())})

    def pages(self, path: str, most: int, **parameters: object) -> Iterator[Json]:
        """Yield at most `most` items, page after page."""
        cursor = None
        while most > 0:
            page = self.get(path, limit=min(most, 500), cursor=cursor, **parameters)
            yield from page["items"]
            most -= len(page["items"])
            cursor = page["next"]
            if cursor is None:
                return

    @contextmanager
    def stream(self, path: str, **parameters: object) -> Generator[Iterator[bytes]]:
        """Open a response that goes on; yields its lines as they come, without line ends."""
        connection = self._connection(STREAM_SILENCE_S)
        try:
            response = self._request(connection, "GET", _with(path, parameters), None, {})
            yield _lines(response, self.context.url)
        finally:
            connection.close()

    def _retried(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Json:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return self._once(method, path, body, headers)
            except CliError as error:
                if error.exit_code is not Exit.UNREACHABLE or not error.problem or attempt == ATTEMPTS_MAX:
                    raise
                time.sleep(0.2 * attempt)
        raise AssertionError("the last attempt returns or raises")

    def _once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Json:
        connection = self._connection(TIMEOUT_S)
        try:
            response = self._request(connection, method, path, body, headers)
            return json.loads(response.read() or b"{}")
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        return kind(self._url.hostname or "127.0.0.1", self._url.port, timeout=timeout_s)

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        sent = {"Accept": "application/json", **headers}
        if self.context.api_key:
            sent["Authorization"] = f"Bearer {self.context.api_key}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            connection.request(method, self._url.path + path, body, sent)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        if response.status >= 400:  # HTTP: what went wrong begins at 400
            raise _refused(response)
        return response

    def _unreachable(self, error: Exception) -> CliError:
        return CliError(
            Exit.UNREACHABLE,
            f"cannot reach the hub at {self.context.url}: {error}",
            remedy="start one with `autovibe dev`, or set AUTOVIBE_URL",
        )


def _refused(response: http.client.HTTPResponse) -> CliError:
    text = response.read(65_536)
    try:
        said: object = json.loads(text)
    except ValueError:
        said = None
    problem: dict[str, object] = cast("dict[str, object]", said) if isinstance(said, dict) else {}
    if "detail" not in problem:
        problem = {"detail": f"HTTP {response.status} {response.reason}: {text[:300].decode(errors='replace')}"}
    exit_code = EXIT_OF_STATUS.get(response.status, Exit.REFUSED)
    return CliError(exit_code, str(problem["detail"]), remedy=str(problem.get("remedy", "")), problem=problem)


def _with(path: str, parameters: Mapping[str, object]) -> str:
    given = {name: str(value) for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _lines(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        try:
            line = response.readline()
        except (OSError, http.client.HTTPException) as error:
            raise CliError(Exit.UNREACHABLE, f"the stream from {url} broke off: {error}") from error
        if not line:
            return
        yield line.rstrip(b"\r\n")


def segment(text: str) -> str:
    """Quote one segment of a path."""
    return quote(text, safe="")


def connect() -> Hub:
    """Return the hub that the context names; nothing is sent yet."""
    return Hub(context.load())
