"""What is asked wrongly is said before anything is done, in the reader's words."""

import fcntl
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import context
from cli.context import Context
from cli.diagnosis import Finding, findings
from cli.exits import CliError, Exit
from cli.main import app
from cli.stack.stack import StackOptions, running

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "client.json"
    context.save(Context(url="http://127.0.0.1:9"), file)
    monkeypatch.setenv("AUTOVIBE_CONTEXT", str(file))


def test_the_version_is_told() -> None:
    said = RUNNER.invoke(app, ["--version"])
    assert said.exit_code == Exit.OK
    assert said.output.startswith("autovibe ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "mine", ""], "the goal is empty"),
        (["run", "mine", "true", "--file", "foo"], "--file 'foo' is not PATH=LOCALFILE"),
        (["run", "mine", "true", "--env", "foo"], "--env 'foo' is not NAME=VALUE"),
        (["project", "create", "mine", "--budget", "5EUR"], "--budget '5EUR': budgets are in CAD"),
        (
            ["budget", "set", "mine", "5CAD", "--resource", "tokens"],
            "AMOUNT '5CAD' is not a number: tokens is budgeted in tokens",
        ),
        (
            ["budget", "top-up", "mine", "none", "--resource", "cpu"],
            "AMOUNT 'none' is not a number: cpu is budgeted in",
        ),
    ],
)
def test_wrong_values_are_refused_without_asking_the_hub(arguments: list[str], told: str) -> None:
    said = RUNNER.invoke(app, arguments)
    assert said.exit_code == Exit.USAGE
    assert told in said.stderr


async def test_a_data_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CliError, match="cannot be made: Not a directory"):
        async with running(StackOptions(data=tmp_path / "file" / "data")):
            pass


async def test_a_second_hub_on_the_same_directory_is_told_so_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    with (tmp_path / "nats" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CliError, match="a hub runs on"):
            async with running(StackOptions(data=tmp_path)):
                pass
    assert not (tmp_path / "keys").exists()


def test_the_demo_does_not_empty_a_hub_that_it_has_not_made(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    context.save(Context(), hub / "client.json")
    said = RUNNER.invoke(app, ["demo", "--data", str(hub)])
    assert said.exit_code == Exit.USAGE
    assert "holds other things" in said.stderr
    assert (hub / "client.json").exists()


def test_the_doctor_says_what_helps_when_the_context_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOVIBE_CONTEXT", "/nowhere/client.json")
    monkeypatch.setattr("cli.diagnosis._sandbox", lambda: Finding("sandbox", ok=True, detail="not looked at"))
    (hub,) = (found for found in findings() if found.what == "hub")
    assert "does not exist" in hub.detail
    assert "autovibe dev" in hub.remedy
