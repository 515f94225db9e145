"""Running a service alone: settings, secrets in files, log lines, health, metrics, SIGTERM."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import structlog

from cli.stack.nats import EmbeddedNats
from services.kit import logging as kit_logging
from services.kit.health import Health, Part
from services.kit.http import serve_health
from services.kit.metrics import Metrics
from services.kit.settings import BusSettings, DatabaseSettings, ServiceSettings
from tests.harness import eventually, free_port

SERVICE = """
import sys
from types import TracebackType
from typing import Self
from events.envelope import Recorded
from services.kit.bus import Bus
from services.kit.health import Health
from services.kit.main import serve
from services.kit.metrics import Metrics
from services.kit.reactor import Reactors
from services.kit.settings import ServiceSettings


class Echo:
    name = "echo"

    def __init__(self, bus: Bus) -> None:
        self.metrics = Metrics("echo")
        self.reactors = Reactors(bus, "echo", self.metrics)

        @self.reactors.on(stream="LOG", durable="issuer", subjects=["av.*.project.*.ProjectCreated"])
        async def on_created(_: Recorded) -> None:
            pass

    async def __aenter__(self) -> Self:
        self.running = self.reactors.running()
        await self.running.__aenter__()
        return self

    async def __aexit__(self, kind, error, trace) -> None:
        await self.running.__aexit__(kind, error, trace)

    async def health(self) -> Health:
        return await self.reactors.health()


sys.exit(serve(lambda bus, settings: Echo(bus), ServiceSettings, "echo"))
"""


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


def start(environment: dict[str, str], program: str = SERVICE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], "AUTOVIBE_NATS_INBOX_PREFIX": "_INBOX", **environment},
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


async def test_a_service_runs_alone_until_it_is_told_to_end(server: EmbeddedNats, bus: object) -> None:
    port = free_port()
    process = start({"NATS_URL": server.url, "AUTOVIBE_HEALTH_PORT": str(port)})
    try:
        url = f"http://127.0.0.1:{port}"

        async def ready() -> bool:
            return (await asyncio.to_thread(get, f"{url}/readyz"))[0] == 200

        await eventually(ready, timeout_s=30)
        _, body = await asyncio.to_thread(get, f"{url}/readyz")
        assert [part["name"] for part in json.loads(body)["parts"]] == ["bus", "consumer issuer"]
        _, body = await asyncio.to_thread(get, f"{url}/metrics")
        assert b'autovibe_consumer_lag{consumer="issuer",service="echo"} 0.0' in body
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.to_thread(process.communicate, timeout=20)
    finally:
        process.kill()
    lines = [json.loads(line) for line in errors.splitlines()]
    assert process.returncode == 0, errors
    assert [line["event"] for line in lines if line["logger"] == "main"] == [
        "service.started",
        "service.stopping",
        "service.stopped",
    ]
    assert all(line["service"] == "echo" for line in lines)


async def test_a_service_that_refuses_from_its_task_group_ends_with_its_reason(
    server: EmbeddedNats, bus: object
) -> None:
    refusing = SERVICE.replace(
        "self.running = self.reactors.running()",
        "raise ExceptionGroup('tasks', [ExceptionGroup('deeper', [Refused('the host is not safe')])])",
    ).replace("from services.kit.main", "from services.kit.errors import Refused\nfrom services.kit.main")
    process = start({"NATS_URL": server.url, "AUTOVIBE_HEALTH_PORT": "0"}, refusing)
    _, errors = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 1
    last = json.loads(errors.splitlines()[-1])
    assert (last["event"], last["reason"]) == ("service.refused", "the host is not safe")


def test_wrong_settings_are_said_by_name() -> None:
    process = start({"AUTOVIBE_HEALTH_PORT": "a lot"})
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "echo: setting health_port" in errors


def test_a_service_without_a_server_ends_with_the_reason() -> None:
    process = start(
        {
            "NATS_URL": f"nats://127.0.0.1:{free_port()}",
            "AUTOVIBE_HEALTH_PORT": "0",
            "AUTOVIBE_NATS_CONNECT_DEADLINE_S": "0.3",
        }
    )
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "no NATS server took us" in errors


async def test_health_says_which_part_is_not_well_and_a_slow_answer_is_one() -> None:
    found = Health((Part("a", ok=True), Part("b", ok=False, detail="3 behind")))

    async def health() -> Health:
        return found

    async with serve_health("127.0.0.1", 0, health, Metrics("x").text) as port:
        url = f"http://127.0.0.1:{port}"
        status, body = await asyncio.to_thread(get, f"{url}/readyz")
        assert (status, json.loads(body)["parts"][1]) == (503, {"name": "b", "ok": False, "detail": "3 behind"})
        assert (await asyncio.to_thread(get, f"{url}/healthz?x=1"))[0] == 200
        assert (await asyncio.to_thread(get, f"{url}/else"))[0] == 404
        for hostile in (b"", b"\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"G" * 100_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(hostile)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 5)
            writer.close()
        found = Health()
        assert (await asyncio.to_thread(get, f"{url}/readyz"))[0] == 200


async def test_metrics_count_by_consumer_and_outcome() -> None:
    metrics = Metrics("budget")
    metrics.handled("budget", "ok", 0.01)
    metrics.handled("budget", "later", 0)
    assert b'autovibe_messages_handled_total{consumer="budget",outcome="ok",service="budget"} 1.0' in metrics.text()


def test_a_setting_may_stand_in_a_file_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://ann:pw@db/x\n")
    monkeypatch.setenv("AUTOVIBE_DATABASE_URL_FILE", str(secret))
    monkeypatch.setenv("AUTOVIBE_HEALTH_PORT_FILE", str(secret))
    assert DatabaseSettings().database_url == "postgresql://ann:pw@db/x"
    assert "pw" not in repr(DatabaseSettings())
    monkeypatch.setenv("DATABASE_URL", "postgresql://other/y")
    assert DatabaseSettings().database_url == "postgresql://other/y"
    with pytest.raises(ValueError, match="health_port"):
        ServiceSettings()


def test_the_usual_names_are_understood_and_ours_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://a:1")
    assert BusSettings().nats_url == "nats://a:1"
    monkeypatch.setenv("AUTOVIBE_NATS_URL", "nats://b:2")
    assert BusSettings().nats_url == "nats://b:2"
    assert BusSettings(nats_url="nats://c:3").nats_url == "nats://c:3"


def test_log_lines_are_json_with_the_bound_context_and_without_local_variables() -> None:
    out = io.StringIO()
    kit_logging.configure("spawner", "info", "auto", out)
    try:
        log = structlog.get_logger("x")
        password = "hunter2"  # what must not be logged
        with structlog.contextvars.bound_contextvars(machine_id="m-1"):
            try:
                int("no number")
            except ValueError:
                log.exception("machine.broke", cause=Path("/x"))
        log.debug("machine.unseen")
    finally:
        structlog.reset_defaults()
    (line,) = [json.loads(each) for each in out.getvalue().splitlines()]
    assert (line["event"], line["machine_id"], line["service"], line["level"]) == (
        "machine.broke",
        "m-1",
        "spawner",
        "error",
    )
    assert "ValueError: invalid literal" in line["exception"]
    assert password not in out.getvalue()


@pytest.mark.parametrize("no_color", ["", "1"])
def test_console_lines_have_no_colours_off_a_terminal(monkeypatch: pytest.MonkeyPatch, no_color: str) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    out = io.StringIO()
    kit_logging.configure("spawner", "warning", "console", out)
    try:
        structlog.get_logger("x").warning("machine.lost", machine_id="m-1")
    finally:
        structlog.reset_defaults()
    assert "machine.lost" in out.getvalue()
    assert "\x1b" not in out.getvalue()
