"""Noticing a server that answers but stores nothing.

When its disk is full nats-server leaves publishes unanswered, and goes on so after space was freed, until it is
restarted; nothing that it acknowledged is lost. Only its own /healthz says why.
"""

import asyncio
import urllib.error
import urllib.request

TIMEOUT_S = 3.0
ANSWER_BYTES_MAX = 4096


async def write_error(monitor_url: str) -> str:
    """Return what the server's /healthz says of a failed write; empty: nothing, or it did not answer.

    Whoever supervises the server restarts it on this, once the disk has space again.
    """

    def get() -> str:
        try:
            with urllib.request.urlopen(f"{monitor_url.rstrip('/')}/healthz", timeout=TIMEOUT_S):  # noqa: S310 # an operator's URL
                return ""
        except urllib.error.HTTPError as error:
            with error:
                return error.read(ANSWER_BYTES_MAX).decode("utf-8", "replace")
        except OSError:
            return ""

    text = await asyncio.to_thread(get)
    return text if "write error" in text or "no space left" in text else ""
