"""reference/cli.md: every command with its arguments and options, and what the exit codes mean."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption

from cli.exits import EXIT_OF_OUTCOME, EXIT_OF_STATUS, Exit
from cli.main import app
from docs.generators.markdown import code, page, table

PROGRAM = "autovibe"

MEANING = {
    Exit.OK: "Done. Of `autovibe run`: the machine succeeded.",
    Exit.FAILED: "It was tried and went wrong: a goal that failed, a capture that failed, a check that did not hold.",
    Exit.USAGE: "It was asked wrongly: an unknown option, a value that cannot be read, a file that is not there.",
    Exit.NOT_FOUND: "What it is about does not exist, or the key may not see it.",
    Exit.REFUSED: "Understood and refused: by a budget, by the door, by the key's role.",
    Exit.UNREACHABLE: "The hub does not answer. Nothing is known of what was asked.",
    Exit.DEADLINE: "A deadline passed: the goal's own, or that of something waited for.",
    Exit.INTERRUPTED: "Ctrl-C, or the machine was stopped by somebody.",
}

_INTRODUCTION = """
Every command takes `--help`, and all but `demo` take `--json`: one JSON document, or one a line where there are
several. Colours are left out when the output is no terminal, or `NO_COLOR` is set. Ids may be shortened to any prefix
of four characters or more that only one thing has. Progress goes to stderr, results to stdout.

Which hub is talked to: [settings.md](settings.md#the-command-line).
"""


@dataclass(frozen=True, slots=True)
class Command:
    """One command as it is typed."""

    words: tuple[str, ...]
    help: str
    arguments: tuple[TyperArgument, ...]
    options: tuple[TyperOption, ...]

    @property
    def title(self) -> str:
        return " ".join((PROGRAM, *self.words))


def commands() -> list[Command]:
    """Return every command, groups in the order of the help."""
    return list(_below(typer.main.get_command(app), ()))


def text() -> str:
    found = commands()
    return page(
        "The command line",
        "`cli/`",
        _INTRODUCTION,
        table(("command", "what it does"), ((_link(one), _first_sentence(one.help)) for one in found)),
        "## Exit codes",
        table(("code", "name", "meaning"), ((str(int(one)), one.name.lower(), MEANING[one]) for one in Exit)),
        "The exit code of `autovibe run` says how the machine ended:",
        table(("outcome", "exit code"), ((word, str(int(one))) for word, one in EXIT_OF_OUTCOME.items())),
        "What the hub answers over HTTP becomes:",
        table(
            ("HTTP status", "exit code"),
            [*((str(status), str(int(one))) for status, one in EXIT_OF_STATUS.items()), ("any other refusal", "4")],
        ),
        *(_section(one) for one in found),
    )


def _below(command: object, words: tuple[str, ...]) -> Iterator[Command]:
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from _below(inner, (*words, name))
        return
    params: list[object] = list(getattr(command, "params", ()))
    yield Command(
        words,
        " ".join(inspect.cleandoc(str(getattr(command, "help", ""))).split()),
        tuple(one for one in params if isinstance(one, TyperArgument)),
        tuple(one for one in params if isinstance(one, TyperOption) and not one.hidden),
    )


def _link(command: Command) -> str:
    return f"[`{command.title}`](#{command.title.replace(' ', '-')})"


def _first_sentence(text: str) -> str:
    return text.split(". ", maxsplit=1)[0].rstrip(".") + "."


def _section(command: Command) -> str:
    usage = " ".join((command.title, *(_placeholder(one) for one in command.arguments), "[OPTIONS]"))
    rows = [(code(_placeholder(one)), "", one.help or "") for one in command.arguments]
    rows += [(_spelled(one), _default(one), _described(one)) for one in command.options]
    return "\n\n".join((f"## {command.title}", f"    {usage}", command.help, table(("", "default", ""), rows)))


def _placeholder(argument: TyperArgument) -> str:
    name = (argument.metavar or str(argument.name)).rstrip("_").upper()
    return name if argument.required else f"[{name}]"


def _spelled(option: TyperOption) -> str:
    spelled = ", ".join(code(name) for name in sorted(option.opts, key=len, reverse=True))
    other = ", ".join(code(name) for name in option.secondary_opts)
    repeated = "…" if option.multiple else ""
    return f"{spelled} / {other}" if other else spelled + repeated


def _default(option: TyperOption) -> str:
    default: object = option.default
    if isinstance(default, bool) or default is None or default == "" or not option.show_default:
        return ""
    return code(str(default.value if isinstance(default, Enum) else default))


def _described(option: TyperOption) -> str:
    words = _words(option)
    text = str(option.help)
    if option.multiple:
        text += " May be given several times."
    return f"{text} One of {', '.join(code(word) for word in words)}." if words else text


def _words(option: TyperOption) -> list[str]:
    descriptor = getattr(option, "type_descriptor", None)
    kind = getattr(descriptor, "annotation", None)
    if inspect.isclass(kind) and issubclass(kind, Enum):
        return [str(word.value) for word in kind]
    return []
