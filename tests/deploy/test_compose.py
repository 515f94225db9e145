"""The compose file and what it mounts, without an engine: schema by a linter, the rest by reading and by running it."""

import base64
import importlib.util
import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.stack import binaries
from services.issuer import prepare

ROOT = Path(__file__).resolve().parents[2]
OURS = {"issuer", "hub", "intake", "budget", "checkpointer", "gateway", "spawner", "projector", "query"}
LINTER = "dclint@3.1.0"
NOT_ASKED = ("no-build-and-image", "service-image-require-explicit-tag")
"""Building and naming an image is how it gets its name; its version is the checkout's."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_it_is_valid_by_the_compose_specification(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    assert npm, "this test needs npm: apt-get install npm"
    subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", LINTER], cwd=tmp_path, check=True, timeout=120
    )
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"rules": dict.fromkeys(NOT_ASKED, 0)}))
    linter = tmp_path / "node_modules" / ".bin" / "dclint"
    done = subprocess.run(
        [linter, ROOT / "docker-compose.yml", "--quiet", "--config", config],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_field_that_compose_does_not_know_is_found(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    assert npm, "this test needs npm: apt-get install npm"
    subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", LINTER], cwd=tmp_path, check=True, timeout=120
    )
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text((ROOT / "docker-compose.yml").read_text().replace("stop_grace_period:", "stop_grace_time:"))
    linter = tmp_path / "node_modules" / ".bin" / "dclint"
    done = subprocess.run([linter, wrong, "--quiet"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "must NOT have additional properties" in done.stdout


def test_every_service_has_a_container_that_runs_its_module(compose: dict[str, Any]) -> None:
    commands = {name: compose["services"][name]["command"] for name in OURS}
    assert commands == {name: [f"services.{name}"] for name in OURS}
    for (module,) in commands.values():
        assert importlib.util.find_spec(f"{module}.__main__"), module


def test_whatever_is_mounted_is_declared_and_whatever_is_declared_is_mounted(compose: dict[str, Any]) -> None:
    volumes = {
        mount.partition(":")[0]
        for service in compose["services"].values()
        for mount in service.get("volumes", ())
        if not mount.startswith((".", "/"))
    }
    secrets = {secret for service in compose["services"].values() for secret in service.get("secrets", ())}
    assert volumes == set(compose["volumes"])
    assert secrets == set(compose["secrets"])


def test_nothing_listens_beyond_this_host_unless_somebody_changes_it(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_container_is_asked_for_its_health(compose: dict[str, Any]) -> None:
    """Ours by the image, except those that run once; the servers by their own checks."""
    for name, service in compose["services"].items():
        if name in {"prepare", "migrate"}:
            assert service["healthcheck"] == {"disable": True}
        elif service["image"] != "autovibe" and name != "prometheus":
            assert service["healthcheck"]["test"], name
    assert "HEALTHCHECK" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_the_image_installs_from_the_lock_file_with_hashes() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert "--require-hashes run.txt" in dockerfile
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for part in source.split():
            assert (ROOT / part).exists(), part


def test_the_settings_that_compose_gives_exist(compose: dict[str, Any]) -> None:
    """A misspelled variable would be ignored in silence."""
    known = (ROOT / ".env.example").read_text()
    environments = [service.get("environment", {}) for service in compose["services"].values()]
    given = {name.removesuffix("_FILE") for names in environments for name in names if name.startswith("AUTOVIBE_")}
    assert given
    missing = sorted(name for name in given if not re.search(rf"^#? ?{name}=", known, re.MULTILINE))
    assert not missing


def test_prepared_once_the_server_takes_the_configuration_and_keeps_its_keys(tmp_path: Path) -> None:
    nats = tmp_path / "nats"
    nats.mkdir()
    arguments = ["--keys", str(tmp_path / "keys"), "--creds", str(tmp_path / "creds")]
    arguments += ["--resolver", str(nats / "accounts"), "--config", str(nats / "auth.conf")]
    assert prepare.main(arguments) == 0
    first = (nats / "auth.conf").read_text()
    assert prepare.main(arguments) == 0
    assert _operator(first) == _operator((nats / "auth.conf").read_text())
    config = tmp_path / "etc" / "nats" / "nats.conf"
    config.parent.mkdir(parents=True)
    config.write_text((ROOT / "deploy" / "nats.conf").read_text().replace("/nats/store", str(nats / "store")))
    done = subprocess.run(
        [binaries.nats_server(), "-t", "--config", config], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert "sync_interval: always" in config.read_text()
    assert {path.name for path in (tmp_path / "creds").iterdir()} == {"hub.creds", "system.creds", "operator.creds"}


def test_a_key_store_that_others_can_read_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").mkdir(mode=0o755)
    arguments = ["--keys", str(tmp_path / "keys"), "--creds", str(tmp_path / "creds")]
    assert prepare.main([*arguments, "--resolver", str(tmp_path / "r"), "--config", str(tmp_path / "c")]) == 1
    assert "chmod 700" in capsys.readouterr().err


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    script = tmp_path / "secrets.sh"
    shutil.copy(ROOT / "deploy" / "secrets.sh", script)
    subprocess.run([script], check=True, timeout=30)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    subprocess.run([script], check=True, timeout=30)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made
    assert set(made) == {"postgres_password", "database_url", "database_reader_url"}
    assert made["postgres_password"] in made["database_url"]
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_the_recording_rule_gives_existing_dashboards_their_name() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert [rule["record"] for group in rules["groups"] for rule in group["rules"]] == [
        "autovibe_active_machines_total"
    ]


def _operator(config: str) -> str:
    """Return whose operator it is: the JWT is signed anew each time, the key stays."""
    claims = config.partition("operator: ")[2].split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
