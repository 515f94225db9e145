"""`autovibe run`: request a machine and follow it to its end."""

import os
import threading
from enum import StrEnum
from typing import Annotated

import typer

from cli import console, units, watch
from cli.exits import EXIT_OF_OUTCOME, CliError, Exit
from cli.framing import AsJson, Project, framed, pairs
from cli.hub import Hub, Json, connect, segment
from cli.printing import how_to_go_on, line_of_output, note, note_of_event
from cli.store import put_blob

INLINE_BYTES_MAX = 65_536
FILE_BYTES_MAX = 4 * 1024 * 1024
OUTPUT_JOIN_S = 10.0
END = frozenset({"MachineEnded", "MachineDenied"})


TYPES = "shell, claude_api, claude_code, qwen_coder, aider"


class OnInterrupt(StrEnum):
    """What Ctrl-C does to the machine."""

    STOP = "stop"
    DETACH = "detach"


@framed
def run(
    project: Project,
    goal: Annotated[
        str, typer.Argument(help="What the machine is to do; for a shell, a bash script.", show_default=False)
    ],
    machine_type: Annotated[
        str | None, typer.Option("--type", "-t", help=f"What pursues the goal: {TYPES}; else the project's agent.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model of an AI agent; else the project's or the hub's.")
    ] = None,
    source: Annotated[str | None, typer.Option("--from", help="Checkpoint to start from (a branch).")] = None,
    file: Annotated[list[str] | None, typer.Option(help="PATH=LOCALFILE, put in the workspace first.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; it is logged, so no secrets.")] = None,
    cpu: Annotated[str | None, typer.Option(help="Cores, e.g. 0.5.")] = None,
    memory: Annotated[str | None, typer.Option(help="E.g. 512M, 2G.")] = None,
    disk: Annotated[str | None, typer.Option(help="E.g. 4G.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="How many processes and threads at once.")] = None,
    deadline: Annotated[str | None, typer.Option(help="E.g. 90s, 15m, 2h.")] = None,
    budget: Annotated[str | None, typer.Option(help="What this machine may cost, e.g. 0.50CAD.")] = None,
    on_interrupt: Annotated[OnInterrupt, typer.Option(help="What Ctrl-C does to the machine.")] = OnInterrupt.STOP,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the id and leave.")] = False,
    as_json: AsJson = False,
) -> None:
    """Request a machine, follow it, and leave with its outcome as exit code."""
    if not goal:
        raise CliError(Exit.USAGE, "the goal is empty", remedy=f'autovibe run {project} "make test"')
    hub = connect()
    limits = _limits(cpu, memory, disk, processes, deadline)
    body: dict[str, object] = {"project": project, "goal": goal}
    if limits:
        body["limits"] = limits
    if machine_type:
        body["machine_type"] = machine_type
    if model:
        body["model"] = model
    if source:
        body["from_checkpoint_id"] = hub.get(f"/api/v1/checkpoints/{segment(source)}")["uuid"]
    if file:
        body["files"] = [_injected(hub, path, local) for path, local in pairs(file, "--file", "PATH=LOCALFILE").items()]
    if env:
        body["env"] = pairs(env, "--env")
    if budget:
        body["budget"] = _own_budget(budget)
    answer = hub.post("/api/v1/machines", body)
    if detach:
        console.emit(answer) if as_json else console.say(answer["uuid"])
        return
    raise typer.Exit(int(Follower(hub, project, answer, as_json=as_json).follow(on_interrupt)))


def _limits(
    cpu: str | None, memory: str | None, disk: str | None, processes: int | None, deadline: str | None
) -> dict[str, int]:
    """What was typed of the limits, as the event spells it; what was not is the project's."""
    limits: dict[str, int] = {}
    if cpu:
        limits["cpu_milli"] = units.cores(cpu, "--cpu")
    if memory:
        limits["memory_mib"] = units.mebibytes(memory, "--memory")
    if disk:
        limits["disk_mib"] = units.mebibytes(disk, "--disk")
    if processes:
        limits["processes"] = processes
    if deadline:
        limits["deadline_s"] = units.seconds(deadline, "--deadline")
    return limits


def _own_budget(text: str) -> str:
    amount, currency = units.money(text, "--budget")
    if currency != "CAD":
        raise CliError(Exit.USAGE, f"--budget {text!r}: budgets of machines are in CAD")
    return amount


def _injected(hub: Hub, path: str, local: str) -> dict[str, object]:
    try:
        with open(local, "rb") as source:
            content = source.read(FILE_BYTES_MAX + 1)
            mode = os.fstat(source.fileno()).st_mode & 0o777
    except OSError as error:
        raise CliError(Exit.USAGE, f"--file {path}={local}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise CliError(
            Exit.USAGE,
            f"--file {path}={local} is larger than {FILE_BYTES_MAX} bytes",
            remedy="make it part of the project: autovibe project create --from DIR",
        )
    if len(content) <= INLINE_BYTES_MAX:
        try:
            return {"path": path, "mode": mode, "text": content.decode()}
        except UnicodeDecodeError:
            pass  # Bytes that are no text travel through the chunk store, below.
    return {"path": path, "mode": mode, "digest": put_blob(hub.context, content)}


class Follower:
    """Shows one machine from its request to its end: events on this thread, its output on another."""

    def __init__(self, hub: Hub, project: str, requested: Json, *, as_json: bool) -> None:
        self._hub = hub
        self._project = project
        self._machine_id = str(requested["uuid"])
        self._seq = int(requested["seq"])
        self._as_json = as_json
        self._spent = "0"
        """On model calls, CAD."""
        self._is_parked = False
        """It rests: whoever leaves then does not mean it to end."""

    def follow(self, on_interrupt: OnInterrupt) -> Exit:
        """Return the exit code that the machine's outcome stands for."""
        printing = threading.Thread(target=self._print_output, name="output", daemon=True)
        printing.start()
        if not self._as_json:
            note(f"machine {self._machine_id}")
        try:
            last = self._until_the_end()
        except KeyboardInterrupt:
            if on_interrupt is OnInterrupt.DETACH or self._is_parked:
                console.note(f"detached; it goes on: autovibe machine logs -f {self._machine_id}")
                return Exit.INTERRUPTED
            self._hub.post(
                f"/api/v1/machines/{segment(self._machine_id)}/stop", {"reason": "interrupted at the terminal"}
            )
            console.note("stopping; Ctrl-C again leaves it to itself")
            last = self._until_the_end()
            self._summary(last)
            return Exit.INTERRUPTED
        printing.join(OUTPUT_JOIN_S)
        return self._summary(last)

    def _until_the_end(self) -> Json:
        for event in watch.events(self._hub, self._seq, project=self._project, machine=self._machine_id):
            self._seq = event["seq"]
            if event["type"] in {"MachineParked", "MachineProvisioningStarted"}:
                self._is_parked = event["type"] == "MachineParked"
            if self._as_json:
                console.emit(event)
            else:
                self._tell(event)
            if event["type"] in END:
                return event
        raise AssertionError("the stream of events goes on until the caller leaves it")

    def _tell(self, event: Json) -> None:
        """Say what an event means to the one who watches; after a call, what all of them cost so far."""
        said = note_of_event(event)
        if said is None:
            return
        if event["type"] == "CallSettled":
            self._spent = sum_of([{"cost_cad": self._spent}, event["body"]])
            said = f"{said}; {console.money(self._spent)} so far"
        note(said)
        if event["type"] == "MachineParked":
            note(f"spent on calls so far: {console.money(self._spent)}")
            for line in how_to_go_on(self._project, self._machine_id, event["body"]):
                note(line)

    def _print_output(self) -> None:
        try:
            for line in watch.output(self._hub, self._machine_id, follow=True):
                console.emit({"output": line}) if self._as_json else console.say(line_of_output(line))
        except BrokenPipeError:
            console.note("nobody reads the output any more; the machine goes on")
        except CliError as error:
            console.note(f"output is cut off: {error}")

    def _summary(self, last: Json) -> Exit:
        machine = self._hub.get(f"/api/v1/machines/{segment(self._machine_id)}", at_least_seq=last["seq"])
        used = self._hub.get("/api/v1/resources/usage/summary", by="machine", machine=machine["uuid"])
        cost = sum_of(used["items"])
        if self._as_json:
            console.emit({"machine": machine, "usage": used["items"]})
        else:
            told = console.printable(machine["error_message"] or "")
            note(console.word(machine["outcome"]) + (f": {told}" if told else ""))
            note(f"cost {console.money(cost)}, checkpoints {machine['checkpoint_count']}")
            for line in self._by_model(last["seq"]):
                note(line)
            if machine["last_checkpoint_uuid"]:
                note(f"ended in checkpoint {machine['last_checkpoint_uuid']}")
        return EXIT_OF_OUTCOME[machine["outcome"]]

    def _by_model(self, seq: int) -> list[str]:
        found = self._hub.get("/api/v1/resources/usage/summary", at_least_seq=seq, by="model", machine=self._machine_id)
        costs: dict[str, list[Json]] = {}
        for item in found["items"]:
            if item["model"]:
                costs.setdefault(item["model"], []).append(item)
        return [f"  {console.printable(name)}: {console.money(sum_of(lines))}" for name, lines in costs.items()]


def sum_of(items: list[Json]) -> str:
    """The exact sum of the costs of usage lines."""
    from decimal import Decimal  # noqa: PLC0415  # only at the end of a run

    return format(sum((Decimal(item["cost_cad"]) for item in items), Decimal(0)), "f")
