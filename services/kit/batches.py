"""An append on its way: its parts, and the protocol bytes of several that travel as one atomic batch."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from events.address import Address
from services.kit.errors import KitError
from services.kit.message import Piece
from services.kit.wire import ApiError

MESSAGE_OVERHEAD_BYTES = 300
"""Subject, batch and expectation headers."""
DUPLICATE_IN_BATCH = 10201


class DuplicateId(ApiError):
    """The server knows the id of a single message: it stored nothing."""

    def __init__(self, seq: int) -> None:
        super().__init__(400, DUPLICATE_IN_BATCH, f"the id is that of seq {seq}")
        self.seq = seq


class Stamped(NamedTuple):
    """One aggregate's part of an append, ready to be sent."""

    address: Address
    expected: int
    pieces: tuple[Piece, ...]


class Entry:
    """One append: it is stored whole or not at all."""

    __slots__ = ("deadline", "done", "messages", "parts", "size_bytes", "uncertain")

    def __init__(self, parts: tuple[Stamped, ...], deadline: float, done: "asyncio.Future[int]") -> None:
        self.parts = parts
        self.deadline = deadline
        """By the loop's clock."""
        self.done = done
        """Holds the seq of its last event."""
        self.uncertain = False
        """Sent before, and the answer was lost."""
        self.messages = 0
        self.size_bytes = 0
        for part in parts:
            self.messages += len(part.pieces)
            for piece in part.pieces:
                self.size_bytes += len(piece.body) + len(piece.headers) + MESSAGE_OVERHEAD_BYTES

    def fail(self, error: KitError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def succeed(self, seq: int) -> None:
        if not self.done.done():
            self.done.set_result(seq)


def command(batch: Sequence[Entry], inbox: bytes, batch_id: bytes) -> bytes:
    """Return the protocol bytes of a batch; only its last message asks for an answer."""
    flat = [
        (piece, part if piece is part.pieces[0] else None)
        for entry in batch
        for part in entry.parts
        for piece in part.pieces
    ]
    count = len(flat)
    out: list[bytes] = []
    for number, (piece, first_of) in enumerate(flat, 1):
        lines = b"NATS/1.0\r\n"
        if count > 1:
            lines += b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: %d\r\n" % (batch_id, number)
            if number == count:
                lines += b"Nats-Batch-Commit: 1\r\n"
        if first_of is not None:
            lines += (
                b"Nats-Expected-Last-Subject-Sequence: %d\r\nNats-Expected-Last-Subject-Sequence-Subject: %b\r\n"
                % (first_of.expected, first_of.address.filter().encode())
            )
        header = b"%b%b\r\n" % (lines, piece.headers)
        reply = b" " + inbox if number == count else b""
        out.append(
            b"HPUB %b%b %d %d\r\n%b%b\r\n"
            % (piece.subject, reply, len(header), len(header) + len(piece.body), header, piece.body)
        )
    return b"".join(out)


def meets(seen: set[Address], entry: Entry) -> bool:
    """Return whether an aggregate of the append was seen before; from now on all of them are."""
    before = len(seen)
    for part in entry.parts:
        seen.add(part.address)
    return len(seen) != before + len(entry.parts)


def resolve(batch: Sequence[Entry], last_seq: int) -> None:
    """Give each append its seq: a batch is stored without a gap."""
    seq = last_seq
    for entry in reversed(batch):
        entry.succeed(seq)
        seq -= entry.messages
