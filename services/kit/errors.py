"""What can go wrong at the log, by what the caller should do about it."""


class KitError(Exception):
    """The base of all errors of the kit."""


class Transient(KitError):
    """The outcome is unknown or the server is away: doing the same again, with the same ids, is safe."""


class LogStuck(Transient):
    """The server answers but stores nothing (its disk was full): only a restart of the server heals it."""


class Refused(KitError):
    """It can never be done like this; trying again does not help."""


class LogFull(Refused):
    """The log has reached its limit: nothing is appended until an operator raises it or frees the disk."""


class IdReused(Refused):
    """The id is already in the log, for another event or another place."""

    def __init__(self, event_id: object, seq: int) -> None:
        where = f" at seq {seq}" if seq else ""
        super().__init__(f"event id {event_id} is already in the log{where}, for another event")
        self.seq = seq
        """Where; 0: one of several, the server does not say which."""


class Conflict(KitError):
    """The aggregate has moved on since it was loaded: load it again and decide again."""

    def __init__(self, aggregate: object, expected: int, actual: int) -> None:
        super().__init__(f"aggregate {aggregate} is at seq {actual}, expected {expected}")
        self.expected = expected
        self.actual = actual


class LogGap(KitError):
    """A sequence number is missing from the log: halt, a human must look (`autovibe verify`)."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"the log skips from seq {expected - 1} to {got}: {got - expected} events are missing")
        self.expected = expected
        self.got = got


class LogRegressed(KitError):
    """The log ends before what was already read from it: sequence numbers were, or will be, used again. Halt."""

    def __init__(self, position: int, last: int) -> None:
        super().__init__(f"the log ends at seq {last}, but seq {position} was already read from it")
        self.position = position
        self.last = last
