"""Which ids the log knows under a subject: read once, kept between knocks, bounded."""

from collections import OrderedDict
from dataclasses import dataclass, field

from events.envelope import MSG_ID
from services.kit.log_read import Reader

IDS_KEPT = 200_000
"""Over all subjects, about 200 bytes each; a subject that is forgotten is read anew at its next knock."""


@dataclass(slots=True)
class _Known:
    upto: int = 0
    seqs: dict[str, int] = field(default_factory=dict[str, int])


class Said:
    """The ids of what was said, by subject; each look reads only what came since the last one."""

    def __init__(self, reader: Reader, ids_kept: int = IDS_KEPT) -> None:
        self._reader = reader
        self._ids_kept = ids_kept
        self._ids = 0
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def seq_of(self, subject: str, event_id: str) -> int | None:
        """Return where the id stands under this subject. One subject is to be asked about by one caller at a time."""
        known = self._known.setdefault(subject, _Known())
        self._known.move_to_end(subject)
        before = len(known.seqs)
        for message in await self._reader.read_filter(subject, known.upto):
            known.seqs[message.headers[MSG_ID]] = message.seq
            known.upto = message.seq
        if self._known.get(subject) is known:  # else it was forgotten while it was read
            self._ids += len(known.seqs) - before
        found = known.seqs.get(event_id)
        self._forget()
        return found

    def _forget(self) -> None:
        while self._ids > self._ids_kept and self._known:
            _, oldest = self._known.popitem(last=False)
            self._ids -= len(oldest.seqs)
