"""What can go wrong, sorted by what the caller should do about it."""


class SnapshotError(Exception):
    """The base of everything this package raises on purpose."""


class Transient(SnapshotError):
    """Nothing is broken and nothing half-written: the same call may succeed later."""


class Refused(SnapshotError):
    """The same call can never succeed: change what is asked."""


class Corrupt(SnapshotError):
    """The store does not hold what it should: use an older snapshot, restore the store from a backup."""


class StoreFull(Transient):
    """The store's disk (or quota, or file size limit) is full; free space or sweep, then call again."""


class StoreUnreachable(Transient):
    """The store did not answer, or refused for now; the outcome is unknown, every call is safe to repeat."""


class DeadlineExceeded(Transient):
    """The time the caller gave was too short; nothing was recorded."""


class Swept(Transient):
    """A sweep removed chunks that this capture had counted on; capture again."""


class LimitExceeded(Refused):
    """A named limit stands against it; the message says which and by how much."""


class HostileManifest(Refused):
    """The snapshot's own description is malformed or tries to write outside of the target."""


class NotEmpty(Refused):
    """Snapshots are restored into new or empty directories only."""


class NotFound(Refused):
    """There is no such path in the snapshot."""


class MissingChunk(Corrupt):
    """A chunk that a snapshot refers to is not in the store."""
