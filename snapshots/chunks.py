"""A chunk: up to 4 MiB of bytes named by their BLAKE3 digest, stored raw or as one zstd frame.

The same record (header, then payload) stands in pack files and in HTTP bodies:

    digest 32 | codec 1 (0 raw, 1 zstd) | raw length 4 | stored length 4 | payload     (little-endian)

Whoever reads a record checks length and digest before using it; nothing else vouches for its content.
"""

import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

import zstandard
from blake3 import blake3

from snapshots.errors import Corrupt

DIGEST_BYTES = 32
CHUNK_BYTES = 1 << 20
"""Files are cut at fixed offsets. Content-defined cutting would need native code to keep up with zstd, and what
it is good at (insertions in the middle of big files) is rare in workspaces: big files there are replaced whole,
appended to (logs, conversations) or patched in place (databases), and for these fixed cuts store just as little."""
RAW_BYTES_MAX = 4 << 20
"""No chunk is larger, so no reader ever needs more memory than this for one."""
HEADER = struct.Struct("<32sBII")
RAW, ZSTD = 0, 1


class Chunk(NamedTuple):
    """One chunk as stored: `payload` is raw or compressed, as `codec` says."""

    digest: bytes
    codec: int
    raw_bytes: int
    payload: bytes

    def record(self) -> bytes:
        return HEADER.pack(self.digest, self.codec, self.raw_bytes, len(self.payload)) + self.payload


class _Codecs(threading.local):
    """zstd contexts are not for two threads at once, and making one costs more than compressing a small file."""

    def __init__(self) -> None:
        self.level = 0
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_codecs = _Codecs()


def digest_of(raw: bytes) -> bytes:
    return blake3(raw).digest()


def encode(digest: bytes, raw: bytes, level: int = 1) -> Chunk:
    """Compress where it saves anything; `digest` is trusted, it was computed to ask whether the chunk is new."""
    if _codecs.level != level:
        _codecs.compressor = zstandard.ZstdCompressor(level=level)
        _codecs.level = level
    payload = _codecs.compressor.compress(raw)
    if len(payload) < len(raw):
        return Chunk(digest, ZSTD, len(raw), payload)
    return Chunk(digest, RAW, len(raw), raw)


def decode(chunk: Chunk) -> bytes:
    """The chunk's bytes, verified.

    Raises:
        Corrupt: Length or digest differ, or the payload is no zstd frame.
    """
    raw = chunk.payload if chunk.codec == RAW else _decompress(chunk)
    if len(raw) != chunk.raw_bytes or blake3(raw).digest() != chunk.digest:
        raise Corrupt(f"chunk {chunk.digest.hex()}: content does not match its digest ({len(raw)} bytes read)")
    return raw


def _decompress(chunk: Chunk) -> bytes:
    # The frame states its own size, and the decompressor would allocate whatever it states.
    try:
        stated = zstandard.frame_content_size(chunk.payload)
        if chunk.codec != ZSTD or stated != chunk.raw_bytes or stated > RAW_BYTES_MAX:
            raise Corrupt(f"chunk {chunk.digest.hex()}: states {stated} bytes where {chunk.raw_bytes} are expected")
        return _codecs.decompressor.decompress(chunk.payload)
    except zstandard.ZstdError as error:
        raise Corrupt(f"chunk {chunk.digest.hex()}: not a zstd frame ({error})") from error


def records(body: bytes) -> Iterator[Chunk]:
    """Cut a body of records into chunks; their content is not verified yet.

    Raises:
        Corrupt: The body ends inside a record, or a record is larger than any chunk can be.
    """
    position = 0
    while position < len(body):
        start = position + HEADER.size
        if start > len(body):
            raise Corrupt(f"{len(body) - position} bytes at {position} are too few for a record header")
        digest, codec, raw_bytes, stored_bytes = HEADER.unpack_from(body, position)
        position = start + stored_bytes
        if position > len(body) or raw_bytes > RAW_BYTES_MAX or stored_bytes > raw_bytes:
            raise Corrupt(
                f"record at {start - HEADER.size}: {stored_bytes} stored of {raw_bytes} bytes, cut or too large"
            )
        yield Chunk(digest, codec, raw_bytes, body[start:position])
