"""An embedded nats-server with a durable JetStream."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from cli.stack import binaries
from cli.stack.directory import Claim
from cli.stack.process import Process, ServerFailedError

MIB = 1024**2
START_S = 60.0
"""A store of 1,000,000 messages is recovered in 10 s."""
STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class OperatorMode:
    """Accounts as JWTs that are made and revoked while the server runs. Without it every client may do everything."""

    operator_jwt: str
    system_account: str
    resolver_dir: Path
    """Where the server keeps the accounts' JWTs; it survives a restart."""
    preload: Mapping[str, str] = field(default_factory=dict[str, str])
    """Account id to JWT, for accounts that must be there from the first moment (HUB, SYS)."""

    def text(self) -> str:
        accounts = "\n".join(f"  {account}: {jwt}" for account, jwt in self.preload.items())
        return (
            f"operator: {self.operator_jwt}\n"
            f"system_account: {self.system_account}\n"
            f"resolver {{ type: full, dir: {_quoted(self.resolver_dir)}, allow_delete: true }}\n"
            f"resolver_preload {{\n{accounts}\n}}\n"
        )


@dataclass(frozen=True, slots=True)
class NatsConfig:
    """What the server is told; the defaults are the durable ones."""

    host: str = "127.0.0.1"
    port: int = -1
    """-1 lets the server choose; `EmbeddedNats.port` says which."""
    monitor_port: int | None = None
    """HTTP monitoring, on loopback only, since it asks nobody who they are."""
    file_store_bytes_max: int = 10 * 1024 * MIB
    """Explicit and below the disk: the default is a share of what happens to be free at start."""
    memory_store_bytes_max: int = 64 * MIB
    payload_bytes_max: int = MIB
    """Above the 256 KiB the door takes, so that the refusal can be said instead of the connection being cut."""
    consumers_max: int = 5000
    """Per stream, where the stream itself says nothing; the server's own default is 1000."""
    operator: OperatorMode | None = None

    def text(self, directory: Path) -> str:
        """Return the configuration file of a server that keeps everything in `directory`."""
        monitoring = "" if self.monitor_port is None else f'http: "127.0.0.1:{self.monitor_port}"\n'
        return (
            f"server_name: autovibe\n"
            f"host: {_quoted(self.host)}\n"
            f"port: {self.port}\n"
            f"{monitoring}"
            f"max_payload: {self.payload_bytes_max}\n"
            f"log_file: {_quoted(directory / 'server.log')}\n"
            f"logfile_size_limit: {16 * MIB}\n"
            f"logfile_max_num: 3\n"
            f"jetstream {{\n"
            f"  store_dir: {_quoted(directory / 'store')}\n"
            f"  sync_interval: always\n"
            f"  max_file_store: {self.file_store_bytes_max}\n"
            f"  max_memory_store: {self.memory_store_bytes_max}\n"
            f"  limits {{ default_max_consumers: {self.consumers_max} }}\n"
            f"}}\n"
            f"{self.operator.text() if self.operator else ''}"
        )


class EmbeddedNats:
    """A nats-server on `directory` that ends with this process, however this process ends.

    `start` after `stop`, `kill` or a crash goes on with what the directory holds. Start it from the main thread.
    """

    def __init__(self, directory: Path, config: NatsConfig | None = None) -> None:
        self.directory = directory.absolute()
        self.config = config or NatsConfig()
        self._claim = Claim(self.directory)
        self._process: Process | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The port clients connect to."""
        return self._port

    @property
    def url(self) -> str:
        return f"nats://{self.config.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    async def start(self) -> None:
        """Start the server and return when clients can connect and the streams are recovered (tens of milliseconds).

        Raises:
            ServerFailedError: It did not come up; nothing is left running.
            DirectoryInUseError: Another server runs on the directory.
        """
        program = binaries.nats_server()
        await self.stop()
        await self._claim.take()
        try:
            await self._start(program)
        except BaseException:
            await self.stop()
            raise

    async def _start(self, program: Path) -> None:
        ports = self.directory / "ports"
        ports.mkdir(exist_ok=True)
        for stale in ports.iterdir():
            stale.unlink()
        config = self.directory / "nats.conf"
        config.write_text(self.config.text(self.directory))
        config.chmod(0o600)
        argv = [program, "--config", config, "--ports_file_dir", ports]
        process = Process.spawn(argv, cwd=self.directory, log=self.directory / "start.log")
        self._process = process
        written = ports / f"{program.name}_{process.pid}.ports"
        try:
            await process.until(lambda: _client_port(written) > 0, deadline_s=START_S, what="listening")
        except ServerFailedError as failed:
            raise ServerFailedError(f"{failed}\n{self.log_tail()}") from failed
        self._port = _client_port(written)

    async def stop(self) -> None:
        """Stop the server if it runs; what it acknowledged is on disk either way."""
        if self._process is not None:
            await self._process.stop(grace_s=STOP_S)
            self._process.close()
            self._process = None
        self._claim.release()

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would; `start` goes on from there."""
        self._running().kill()

    async def ended(self) -> int:
        """Wait until the server ends by itself and return its exit code: supervision."""
        return await self._running().ended()

    def log_tail(self, chars: int = 2000) -> str:
        """Return the end of the server's log."""
        log = self.directory / "server.log"
        return log.read_text(errors="replace")[-chars:] if log.exists() else ""

    def _running(self) -> Process:
        if self._process is None:
            raise ServerFailedError(f"the nats-server on {self.directory} was not started")
        return self._process


def _client_port(ports_file: Path) -> int:
    """Return the port in a ports file, 0 while it is missing or half-written."""
    try:
        found: dict[str, list[str]] = json.loads(ports_file.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return 0
    return int(found["nats"][0].rpartition(":")[2])


def _quoted(value: str | Path) -> str:
    return json.dumps(str(value))
