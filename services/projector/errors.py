"""What can go wrong with a projection, by what is to be done about it."""


class ProjectorError(Exception):
    """The base of them all."""


class Halted(ProjectorError):
    """The log and the tables no longer fit together, or an event cannot be read: a human is needed.

    Nothing is skipped. The reason is in the `projection` table and in the health answer; after an upgrade or a rebuild
    the projector goes on from where it stopped.
    """


class Fenced(ProjectorError):
    """Another projector has taken over; this one must stop and may take over only after that one has gone."""
