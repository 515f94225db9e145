"""Which checkpoints may be dropped: keep rules, a byte budget, and what no rule can ever drop."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from domain.checkpoint import Checkpoint, Tree
from events.words import CheckpointType, VerificationStatus


@dataclass(frozen=True, slots=True)
class Keep:
    """How many of a project's checkpoints to keep; with all of them 0 and no byte budget nothing is ever dropped."""

    last: int = 0
    hourly: int = 0
    """The newest of each of so many hours in which there was one."""
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    bytes_max: int = 0
    """What all that is kept may have added to the store together; the oldest go first. 0: no budget."""
    younger_than: timedelta = timedelta(hours=1)
    """What is younger than this is not looked at: somebody may be about to start from it."""

    @property
    def is_anything(self) -> bool:
        return any((self.last, self.hourly, self.daily, self.weekly, self.monthly, self.bytes_max))


_PERIODS: tuple[tuple[str, Callable[[datetime], object]], ...] = (
    ("hourly", lambda at: (at.date(), at.hour)),
    ("daily", lambda at: at.date()),
    ("weekly", lambda at: at.isocalendar()[:2]),
    ("monthly", lambda at: (at.year, at.month)),
)


def droppable(tree: Tree, keep: Keep, in_use: Iterable[UUID], now: datetime) -> list[UUID]:
    """Return which of a project's checkpoints retention drops now, oldest first.

    Never: what is pinned, the genesis, what a machine lives on or the trunk stands on (`in_use`), the newest
    verified one, and what was taken within `keep.younger_than`.
    """
    if not keep.is_anything:
        return []
    held = sorted(
        ((each, checkpoint) for each, checkpoint in tree.items() if checkpoint.taken and not checkpoint.purged),
        key=lambda pair: -pair[1].seq,
    )
    safe = _protected(held, set(in_use), now - keep.younger_than)
    ruled = any((keep.last, keep.hourly, keep.daily, keep.weekly, keep.monthly))
    kept = safe | (_by_rules(held, keep) if ruled else {each for each, _ in held})
    if keep.bytes_max:
        kept = safe | _within(held, kept, safe, keep.bytes_max)
    return [each for each, _ in reversed(held) if each not in kept]


def _protected(held: list[tuple[UUID, Checkpoint]], in_use: set[UUID], young: datetime) -> set[UUID]:
    verified = [each for each, checkpoint in held if checkpoint.verification is VerificationStatus.VERIFIED]
    return {
        *verified[:1],
        *(
            each
            for each, checkpoint in held
            if checkpoint.pinned
            or each in in_use
            or checkpoint.taken_at > young
            or (checkpoint.taken and checkpoint.taken.checkpoint_type is CheckpointType.GENESIS)
        ),
    }


def _by_rules(held: list[tuple[UUID, Checkpoint]], keep: Keep) -> set[UUID]:
    kept = {each for each, _ in held[: keep.last]}
    for name, period in _PERIODS:
        newest: dict[object, UUID] = {}
        for each, checkpoint in held:
            newest.setdefault(period(checkpoint.taken_at), each)
        wanted: int = getattr(keep, name)
        kept |= set(list(newest.values())[:wanted])
    return kept


def _within(held: list[tuple[UUID, Checkpoint]], kept: set[UUID], safe: set[UUID], bytes_max: int) -> set[UUID]:
    """Keep the newest that fit; what is protected counts first."""

    def stored(checkpoint: Checkpoint) -> int:
        return checkpoint.taken.stored_bytes if checkpoint.taken else 0

    spent = sum(stored(checkpoint) for each, checkpoint in held if each in safe)
    fits: set[UUID] = set()
    for each, checkpoint in held:
        if each in kept and each not in safe:
            spent += stored(checkpoint)
            if spent > bytes_max:
                break
            fits.add(each)
    return fits
