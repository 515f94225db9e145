import json
from pathlib import Path

import pytest

from cli import context
from cli.exits import CliError, Exit


@pytest.fixture(autouse=True)
def nobodys_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("URL", "API_KEY", "API_KEY_FILE", "CONTEXT", "STORE_URL", "NATS_URL", "NATS_CREDS", "DATABASE_URL"):
        monkeypatch.delenv(f"AUTOVIBE_{name}", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_without_anything_the_hub_is_the_local_one() -> None:
    assert context.load() == context.Context()


def test_what_dev_wrote_is_found_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    written = context.Context(url="http://127.0.0.1:1", api_key="secret", data="/d")
    context.save(written, context.default_file())
    assert context.load() == written
    assert context.default_file().stat().st_mode & 0o777 == 0o600


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context.save(context.Context(url="http://127.0.0.1:1", api_key="old"), context.default_file())
    key = tmp_path / "key"
    key.write_text("new\n")
    monkeypatch.setenv("AUTOVIBE_URL", "http://127.0.0.1:2/")
    monkeypatch.setenv("AUTOVIBE_API_KEY_FILE", str(key))
    assert context.load() == context.Context(url="http://127.0.0.1:2", api_key="new")


def test_a_context_that_was_named_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOVIBE_CONTEXT", str(tmp_path / "missing.json"))
    with pytest.raises(CliError, match="does not exist") as refused:
        context.load()
    assert refused.value.exit_code is Exit.USAGE


@pytest.mark.parametrize("content", ["not json", json.dumps([1])])
def test_a_broken_context_is_said_or_left_alone(content: str) -> None:
    context.default_file().parent.mkdir(parents=True)
    context.default_file().write_text(content)
    if content.startswith("["):
        assert context.load() == context.Context()
    else:
        with pytest.raises(CliError, match="is no context"):
            context.load()
