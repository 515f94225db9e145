"""Exit codes, the same for every command, and the one error that carries them."""

from enum import IntEnum


class Exit(IntEnum):
    """What the shell sees."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNREACHABLE = 5
    DEADLINE = 124
    INTERRUPTED = 130


class CliError(Exception):
    """A command cannot go on: the message says what stood against it, the remedy what to do."""

    def __init__(
        self, exit_code: Exit, message: str, *, remedy: str = "", problem: dict[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message
        self.remedy = remedy
        self.problem = problem or {}


EXIT_OF_STATUS = {400: Exit.USAGE, 401: Exit.REFUSED, 403: Exit.REFUSED, 404: Exit.NOT_FOUND, 503: Exit.UNREACHABLE}
"""HTTP status to exit code; every other refusal is `Exit.REFUSED`."""

EXIT_OF_OUTCOME = {
    "succeeded": Exit.OK,
    "failed": Exit.FAILED,
    "lost": Exit.FAILED,
    "superseded": Exit.FAILED,
    "denied": Exit.REFUSED,
    "cancelled": Exit.INTERRUPTED,
    "expired": Exit.DEADLINE,
}
"""A machine's outcome to the exit code of `autovibe run`."""
