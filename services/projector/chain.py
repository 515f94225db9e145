"""The hash chain over the log: what makes a changed, lost or inserted event visible.

    hash(n) = SHA-256( hash(n-1) ‖ head ‖ body )
    head    = seq ‖ LF ‖ subject ‖ LF ‖ each of HEADERS ‖ LF        (as they are on the wire, absent = empty)
    hash(0) = 32 zero bytes

`body` is the message's payload, byte for byte. The chain is unambiguous: `head` has a fixed number of lines, no token
of a subject and no header value can hold a line feed, and what follows the last one is the body.
"""

from collections.abc import Mapping
from hashlib import sha256

GENESIS = bytes(32)
SOURCED = b"Nats-Stream-Source"
HEADERS = (
    b"ce-id",
    b"ce-time",
    b"ce-schemaversion",
    b"ce-actor",
    b"ce-causation",
    b"ce-correlation",
    b"ce-reason",
    SOURCED,
)
"""What says who, when and why; type and source repeat the subject. A timer's identity is where it was sourced from."""


def link(previous: bytes, seq: int, subject: bytes, headers: Mapping[bytes, bytes], body: bytes) -> bytes:
    """Return the hash of this event: 32 bytes that depend on everything before it."""
    values = b"\n".join([headers.get(name, b"") for name in HEADERS])
    return sha256(b"%b%d\n%b\n%b\n%b" % (previous, seq, subject, values, body)).digest()
