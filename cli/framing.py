"""What every command shares: the options, and the frame that turns errors into exit codes."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer

from cli import console
from cli.exits import CliError, Exit

P = ParamSpec("P")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON (one document a line where it streams).")]
Project = Annotated[str, typer.Argument(help="The project's slug.", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most so many, newest first.")]


def group(name: str, about: str) -> typer.Typer:
    """Return a group of commands; without rich help, which costs 0.2 s of CPU to draw."""
    return typer.Typer(
        name=name, help=about, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
    )


def framed(function: Callable[P, None]) -> Callable[P, None]:
    """Run a command; say errors as the reader asked for them; leave with the documented exit code."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except CliError as error:
            console.complain(error, as_json=bool(kwargs.get("as_json")))
            raise typer.Exit(int(error.exit_code)) from error
        except KeyboardInterrupt:
            console.note("interrupted")
            raise typer.Exit(int(Exit.INTERRUPTED)) from None
        except BrokenPipeError:
            # The reader (head, less) has gone: nothing more to say, and no traceback at interpreter exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(int(Exit.OK)) from None

    return run


def pairs(values: list[str], option: str, shape: str = "NAME=VALUE") -> dict[str, str]:
    """Read repeated NAME=VALUE options; `shape` is what the reader is told they look like.

    Raises:
        CliError: One has no `=` or no name.
    """
    found: dict[str, str] = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not equals or not name:
            raise CliError(Exit.USAGE, f"{option} {value!r} is not {shape}")
        found[name] = content
    return found
