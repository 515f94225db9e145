"""The hash chain over the log: what makes a changed, lost or inserted event visible.

    hash(n) = SHA-256( hash(n-1) ‖ head ‖ body )
    head    = seq ‖ LF ‖ subject ‖ LF ‖ each of HEADERS ‖ LF        (as they are on the wire, absent = empty)
    hash(0) = 32 zero bytes

`body` is the message's payload, byte for byte. The chain is unambiguous: `head` has a fixed number of lines, no token
of a subject and no header value can hold a line feed, and what follows the last one is the body.
"""

import re
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


_ALL = re.compile(rb"\r\n([^:\r]+): *([^\r]*)")
# As `services.kit.message.encode` writes them, in one go; any other order or set of headers goes the long way.
_USUAL = re.compile(
    rb"\r\nce-id: ([^\r]*)\r\nce-source: [^\r]*\r\nce-type: [^\r]*\r\nce-time: ([^\r]*)\r\nce-schemaversion: ([^\r]*)"
    rb"(?:\r\nce-actor: ([^\r]*))?(?:\r\nce-causation: ([^\r]*))?(?:\r\nce-correlation: ([^\r]*))?"
    rb"(?:\r\nce-reason: ([^\r]*))?\r\n(?!ce-)"
)


def header_values(header: bytes) -> tuple[bytes, ...]:
    """Return the values of HEADERS in a header block, empty where there is none."""
    usual = _USUAL.search(header)
    if usual is not None and SOURCED not in header:
        return (*usual.groups(b""), b"")
    found: dict[bytes, bytes] = {}
    for name, value in _ALL.findall(header):
        found.setdefault(name, value)
    return tuple([found.get(name, b"") for name in HEADERS])


def link(previous: bytes, seq: int, subject: bytes, values: tuple[bytes, ...], body: bytes) -> bytes:
    """Return the hash of this event, `values` being its `header_values`: 32 bytes that depend on everything before."""
    return sha256(b"%b%d\n%b\n%b\n%b" % (previous, seq, subject, b"\n".join(values), body)).digest()
