"""The generated reference is what the code says, and says all of it."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import services
from cli.exits import Exit
from docs import generate
from docs.generators import cli, errors, metrics, settings, tables
from services.kit.settings import DatabaseSettings, ServiceSettings
from tests.docs.reading import ROOT

REFERENCE = ROOT / "docs" / "reference"


def test_every_generated_file_is_what_the_code_says() -> None:
    assert generate.stale() == []


def test_a_file_that_somebody_edited_or_removed_is_found(tmp_path: Path) -> None:
    generate.write(tmp_path)
    assert generate.stale(tmp_path) == []
    edited, removed = tmp_path / "docs/reference/cli.md", tmp_path / ".env.example"
    edited.write_text(edited.read_text().replace("Exit codes", "Exit code"))
    removed.unlink()
    assert generate.stale(tmp_path) == [Path("docs/reference/cli.md"), Path(".env.example")]


def test_it_is_the_same_whoever_makes_it_where_and_when() -> None:
    """Another directory, another hash seed: nothing of this machine or run gets in."""
    program = "import sys; from docs.generate import documents; sys.stdout.write(''.join(documents().values()))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    made = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**environment, "PYTHONHASHSEED": seed, "HOME": home},
            cwd=place,
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed, home, place in (("1", "/somewhere", "/"), ("2", "/elsewhere", "/usr"))
    ]
    assert made[0] == made[1]
    assert made[0] == "".join(generate.documents().values()).encode()


def test_check_fails_with_the_remedy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(generate, "stale", lambda: [Path("docs/reference/cli.md")])
    assert generate.main(["--check"]) == 1
    assert "python -m docs.generate" in capsys.readouterr().err
    assert generate.main(["--chekc"]) == 2


def test_every_command_and_option_has_its_line() -> None:
    text = (REFERENCE / "cli.md").read_text()
    found = cli.commands()
    assert len(found) > 30
    for command in found:
        section = text.partition(f"\n## {command.title}\n")[2].partition("\n## ")[0]
        assert command.help, command.title
        for option in command.options:
            assert all(f"`{name}`" in section for name in option.opts), (command.title, option.opts)


def test_every_exit_code_has_its_meaning() -> None:
    assert set(cli.MEANING) == set(Exit)


def test_every_refusal_has_its_meaning() -> None:
    assert errors.codes() == set(errors.MEANING)


def test_every_service_with_settings_is_documented() -> None:
    for module in pkgutil.iter_modules(services.__path__):
        if module.name != "kit":
            importlib.import_module(f"services.{module.name}.app")
    documented = {base for cls in settings.SERVICES.values() for base in cls.__mro__}
    assert _below(ServiceSettings) | _below(DatabaseSettings) <= documented


def test_what_the_command_line_reads_from_the_environment_is_documented() -> None:
    source = "".join(file.read_text() for file in sorted((ROOT / "cli").rglob("*.py")))
    read = set(re.findall(r"environ(?:\.get\(|\[|\.setdefault\()\"(AUTOVIBE_\w+)\"", source))
    assert "AUTOVIBE_CONTEXT" in read
    assert {name.removesuffix("_FILE") for name in read} <= settings.every_name()


def test_every_setting_says_what_it_is() -> None:
    silent = re.findall(r"^\| (`AUTOVIBE_\w+`).*\|\s*\|$", (REFERENCE / "settings.md").read_text(), re.MULTILINE)
    assert silent == []


def test_every_setting_is_in_the_example_once() -> None:
    names = re.findall(r"^#? ?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    usual = {name for name in settings.every_name() if not name.startswith("AUTOVIBE_")}
    assert set(names) == settings.every_name() - usual


@pytest.mark.parametrize("service", settings.SERVICES)
def test_the_examples_values_are_the_defaults(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncommented as it stands and loaded by a shell, what the example says of a service changes nothing."""
    for name in [name for name in os.environ if name.startswith("AUTOVIBE_")]:
        monkeypatch.delenv(name)
    plain = settings.SERVICES[service]()
    sections = dict(re.findall(r"^## (.+)\n((?:.+\n)*)", (ROOT / ".env.example").read_text(), re.MULTILINE))
    example = sections["Every service"] + sections["Projector and query"] + sections[service]
    values = re.findall(r"^# (AUTOVIBE_\w+=.+)$", example, re.MULTILINE)
    for name, value in _loaded_by_a_shell(values).items():
        monkeypatch.setenv(name, value)
    assert settings.SERVICES[service]() == plain


def test_every_metric_is_documented() -> None:
    source = "".join(file.read_text() for file in sorted((ROOT / "services").rglob("*.py")))
    made = set(re.findall(r"(?:Counter|Gauge|Histogram|Summary)\(\s*\"(\w+)\"", source))
    documented = {one.name for one in metrics.metrics()}
    assert made
    assert {name for name in made if not {name, f"{name}_total"} & documented} == set()


def test_every_table_and_column_of_the_migrations_is_documented() -> None:
    sql = "".join(file.read_text() for file in sorted((ROOT / "schema" / "sql").glob("*.sql")))
    found = tables.tables()
    assert set(found) == set(re.findall(r"^CREATE TABLE (\w+)", sql, re.MULTILINE))
    assert sum(len(one.indexes) for one in found.values()) == len(
        re.findall(r"^CREATE (?:UNIQUE )?INDEX", sql, re.MULTILINE)
    )
    assert set(tables.comments()) == set(re.findall(r"^COMMENT ON \w+ ([\w.]+)", sql, re.MULTILINE))
    assert all(one.columns for one in found.values())


def _below(cls: type) -> set[type]:
    """Every class of the services that has these settings."""
    found = {sub for sub in cls.__subclasses__() if sub.__module__.startswith("services.")}
    return found.union(*(_below(sub) for sub in found))


def _loaded_by_a_shell(lines: list[str]) -> dict[str, str]:
    shell = "\n".join(["set -a", *lines, "env -0"])
    done = subprocess.run(["bash", "-c", shell], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True)
    pairs = (pair.partition("=") for pair in done.stdout.decode().split("\0"))
    return {name: value for name, _, value in pairs if name.startswith("AUTOVIBE_")}
