"""What the documents show can be typed, followed and believed."""

import ast
import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest
import typer
from typer._click.exceptions import ClickException, MissingParameter, UsageError
from typer.core import TyperGroup

from cli.main import app
from docs.generators import settings
from docs.generators.http import operations
from events.registry import EVENTS
from schema import migrations
from tests.docs.reading import LATER, ROOT, Document, documents, words

HOSTS = frozenset(
    {
        "127.0.0.1",
        "localhost",
        "api.anthropic.com",
        "api.openai.com",
        "nats",
        "github.com",
        "keepachangelog.com",
        "nats.example",
        "db.example",
        "docs.rs",
    }
)
DOCUMENTS = documents()
PROGRAM = typer.main.get_command(app)


def parse(line: str, *, whole: bool = True) -> None:
    """Parse a command line as the program would, and run nothing.

    Raises:
        ClickException: It would be refused; what only lacks arguments is not, unless it is shown whole.
    """
    command, rest = PROGRAM, words(line)[1:]
    while isinstance(command, TyperGroup):
        name = rest.pop(0) if rest else ""
        if not name and not whole:
            return
        if name not in command.commands:
            raise UsageError(f"{line!r}: there is no command {name!r}")
        command = command.commands[name]
    if "--help" in rest:
        return
    try:
        command.make_context(line, rest)
    except MissingParameter:
        if whole:
            raise


def test_every_command_line_that_is_shown_is_one() -> None:
    typed = [(one.path, line) for one in DOCUMENTS for line in one.typed()]
    assert len(typed) > 60
    for path, line in typed:
        try:
            parse(line)
        except ClickException as error:
            pytest.fail(f"{path}: {line}: {error.format_message()}")


def test_every_command_that_is_mentioned_exists() -> None:
    for one in DOCUMENTS:
        for line in one.mentioned():
            try:
                parse(line, whole=False)
            except ClickException as error:
                pytest.fail(f"{one.path}: {line}: {error.format_message()}")


@pytest.mark.parametrize(
    "line",
    [
        "autovibe machine list",
        "autovibe run webshop",
        "autovibe run webshop x --memroy 2G",
        "autovibe budget set a 1 --period yearly",
    ],
)
def test_a_command_line_that_is_none_would_be_found(line: str) -> None:
    with pytest.raises(ClickException):
        parse(line)


def test_every_link_leads_somewhere() -> None:
    by_path = {one.path: one for one in DOCUMENTS}
    broken = [f"{one.path}: {link}" for one in DOCUMENTS for link in one.links if not _resolves(one, link, by_path)]
    assert broken == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    by_path = {one.path: one for one in DOCUMENTS}
    reached, waiting = set[Document](), [by_path[(ROOT / "README.md").relative_to(ROOT)]]
    while waiting:
        one = waiting.pop()
        reached.add(one)
        targets = (
            ((ROOT / one.path).parent / link.partition("#")[0]).resolve() for link in one.links if "://" not in link
        )
        found = (by_path.get(target.relative_to(ROOT)) for target in targets if target.is_relative_to(ROOT))
        waiting += [it for it in found if it is not None and it not in reached]
    assert {one.path for one in DOCUMENTS if one not in reached and one.path.parts[0] == "docs"} == set()


def test_nothing_of_the_machine_it_was_written_on_is_shown() -> None:
    for one in DOCUMENTS:
        assert one.hosts <= HOSTS, (one.path, one.hosts - HOSTS)
        own = re.search(r"(?<![\w~.…])/(?:root|work(?!space)|tmp/\w|home/(?!agent))\S*", one.text)
        assert own is None, (one.path, own)


def test_every_setting_that_is_named_exists() -> None:
    known = settings.every_name()
    for one in DOCUMENTS:
        for name in re.findall(r"\bAUTOVIBE_[A-Z_]+[A-Z]\b", one.text):
            assert name.removesuffix("_FILE") in known, (one.path, name)


def test_every_path_of_the_api_that_is_named_exists() -> None:
    known = [re.compile(re.sub(r"\{\w+\}", r"[^/]+", route.path)) for route in operations()]
    for one in DOCUMENTS:
        for path in re.findall(r"/api/v1[\w/${}-]*", one.text):
            if path not in {"/api/v1", "/api/v1/"}:
                assert any(it.fullmatch(path) for it in known), (one.path, path)


def test_every_event_that_is_named_exists() -> None:
    shape = re.compile(r"\b(?:Machine|Project|Checkpoint|Budget|Usage|Reservation|Timer)[A-Z][a-z]+(?:[A-Z][a-z]+)*\b")
    for one in DOCUMENTS:
        named = {name for name in shape.findall(one.text) if name not in _NOT_EVENTS}
        assert named <= set(EVENTS), (one.path, named - set(EVENTS))


def test_every_snippet_of_python_is_python() -> None:
    snippets = [text for one in DOCUMENTS for language, text in one.blocks if language == "python"]
    assert snippets
    for text in snippets:
        ast.parse(text)


async def test_every_statement_of_sql_runs(database: str) -> None:
    statements = [text for one in DOCUMENTS for language, text in one.blocks if language == "sql"]
    assert statements
    await asyncio.to_thread(migrations.apply, database)
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute("SET ROLE autovibe_reader")
        for text in statements:
            await connection.execute(text.encode())


_NOT_EVENTS = frozenset({"CheckpointPolicy"})


def _resolves(one: Document, link: str, by_path: Mapping[Path, Document]) -> bool:
    if "://" in link:
        return True
    path, _, anchor = link.partition("#")
    target = ((ROOT / one.path).parent / path).resolve() if path else ROOT / one.path
    if not target.is_relative_to(ROOT):
        return False
    below = target.relative_to(ROOT)
    if str(below) in LATER and not target.exists():
        return True
    if not target.exists():
        return False
    return not anchor or (below in by_path and anchor in by_path[below].anchors)
