"""What chunk store client and endpoint say to each other; see `snapshots.http` for the protocol."""

from snapshots.chunks import DIGEST_BYTES
from snapshots.errors import Refused

PREFIX = "/v1"
BODY_BYTES_MAX = 8 << 20
"""Of requests and answers; the largest chunk is half of it."""
DIGESTS_MAX = 16_384
RECORDS = "application/vnd.autovibe.chunks"
DIGESTS = "application/vnd.autovibe.digests"
JSON = "application/json"


def split_digests(body: bytes) -> list[bytes]:
    """
    Raises:
        Refused: It is no list of digests, or too long a one.
    """
    if len(body) % DIGEST_BYTES or len(body) > DIGESTS_MAX * DIGEST_BYTES:
        raise Refused(f"{len(body)} bytes are not 0 to {DIGESTS_MAX} digests of {DIGEST_BYTES} bytes")
    return [body[at : at + DIGEST_BYTES] for at in range(0, len(body), DIGEST_BYTES)]
