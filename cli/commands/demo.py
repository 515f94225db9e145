"""`autovibe demo`: the main job on real input, every line of it printed by the real commands."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

import typer

from cli import console
from cli.exits import CliError, Exit
from cli.framing import framed
from cli.stack.directory import held

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
START_S = 120.0
STOP_S = 60.0
MARK = "made-by-demo"
"""Only a directory with this in it is emptied: nobody loses a hub of their own."""
SMALL = "0.21CAD"
"""Enough for the second goal's machine and its first calls, too little for all of them."""
TOP_UP = "1CAD"
PARKED = "parked"


@framed
def demo(
    data: Annotated[Path, typer.Option(help="Where the demo keeps its hub; emptied first.")] = Path(".demo"),
) -> None:
    """See an agent at work: calls metered, checkpoints between them, parked and topped up; a branch, a refusal, the proof."""
    if not EXAMPLES.is_dir():
        raise CliError(Exit.FAILED, f"{EXAMPLES} is missing: the demo runs from a checkout of the project")
    directory = data.absolute()
    if directory.exists():
        if not directory.is_dir() or (not (directory / MARK).exists() and any(directory.iterdir())):
            raise CliError(Exit.USAGE, f"--data {data} holds other things", remedy="name a directory of its own")
        if held(directory / "nats"):
            raise CliError(Exit.FAILED, f"a hub runs on {data}", remedy="stop it, or give another --data")
        shutil.rmtree(directory)
    directory.mkdir(mode=0o700, parents=True)
    (directory / MARK).touch()
    started = time.monotonic()
    _title("Start the hub: nats-server, PostgreSQL, the sandbox and every service, embedded")
    with subprocess.Popen(  # our own command
        [
            *_autovibe(),
            "dev",
            "--data",
            str(directory),
            "--port",
            "0",
            "--store-port",
            "0",
            "--gateway-port",
            "0",
            "--gateway-port",
            "0",
            "--nats-port",
            "0",
            "--json",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(directory),
    ) as hub:
        try:
            _wait_ready(hub, directory)
            console.say(f"ready after {time.monotonic() - started:.1f} s")
            Story(directory).tell()
        finally:
            hub.send_signal(signal.SIGTERM)
            try:
                hub.wait(STOP_S)
            except subprocess.TimeoutExpired:
                hub.kill()
                raise CliError(Exit.FAILED, f"the hub did not stop within {STOP_S:g} s and was killed") from None
    left = _left_running(directory)
    if left:
        raise CliError(Exit.FAILED, "still running after the hub has stopped: " + ", ".join(left))
    _title(f"Done in {time.monotonic() - started:.0f} s; nothing is left running")
    console.say("Go on with the same hub, its history and its checkpoints:")
    console.say(f"  autovibe dev --data {data}")
    console.say("and from another terminal, for example:")
    console.say('  autovibe run webshop "make test"')
    console.say("  autovibe events tail -f")


class Story:
    """What the demo does, in order; each step is a command anybody can type."""

    def __init__(self, directory: Path) -> None:
        self._environment = _environment(directory)

    def tell(self) -> None:
        _title("A project from a real source tree, with 5 CAD to spend")
        self._run("project", "create", "webshop", "--from", str(EXAMPLES / "webshop"), "--budget", "5CAD",
                  "--greediness", "0.7")  # fmt: skip
        _title("First goal: the built-in agent at work, every model call metered, a checkpoint between calls")
        self._run("run", "webshop", _goal("discounts.txt"), "--type", "claude_api", "--budget", "1CAD")
        between = self._between_calls()
        _title(
            "Second goal, from where the first one ended, with too small a budget: it parks, and a top-up lets it finish"
        )
        self._parked_goal()
        _title("A third goal, a shell script, branched off a checkpoint from between two calls of the first")
        self._run("run", "webshop", _goal("add-coupons.sh"), "--from", between)
        _title("One that its budget refuses: it asks for 50 CAD of a project that has 5")
        self._run("run", "webshop", "make test", "--budget", "50CAD", expect=Exit.REFUSED)
        _title("The checkpoint tree")
        self._run("checkpoint", "tree", "webshop")
        _title("What the models cost, what each machine cost, and what is left of the budget")
        self._run("usage", "--by", "model", "--project", "webshop")
        self._run("usage", "--by", "machine", "--project", "webshop")
        self._run("budget", "show", "webshop")
        _title("What the first goal changed, from the project's first checkpoint to the goal's last")
        self._run("checkpoint", "diff", self._first(), self._finals()[0], "--stat")
        _title("The last events of the log; everything above is made from it")
        self._run("events", "tail", "--project", "webshop", "-n", "14")
        _title("And it can be proved: the chain is whole, the tables equal the fold of the log")
        self._run("verify")

    def _parked_goal(self) -> None:
        """Run a goal until it parks for want of money, give it more, and see it end."""
        arguments = ("run", "webshop", _goal("receipt.txt"), "--type", "claude_api", "--budget", SMALL)
        _prompt(arguments)
        with subprocess.Popen(  # our own command
            [*_autovibe(), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
        ) as run:
            machine, topped_up = "", False
            for line in _lines(run.stdout):
                console.say(line)
                if "machine " in line and not machine:
                    machine = line.rpartition("machine ")[2].strip().removesuffix("\x1b[0m")
                elif PARKED in line and not topped_up:
                    topped_up = True
                    self._run("budget", "top-up", "webshop", TOP_UP, "--machine", machine)
        self._check(arguments, run.returncode, Exit.OK)

    def _between_calls(self) -> str:
        """Return the first checkpoint that was taken between two model calls, else the first machine's first one."""
        listed = [item for item in self._checkpoints() if item["checkpoint_type"] == "automatic"]
        between = [item for item in listed if item["creation_context"] == "between_calls"]
        return str((between or listed)[0]["uuid"])

    def _first(self) -> str:
        return str(self._checkpoints()[0]["uuid"])

    def _checkpoints(self) -> list[dict[str, object]]:
        """Return all checkpoints, oldest first."""
        listed = self._output("checkpoint", "ls", "--project", "webshop", "--json", "-n", "500")
        return [json.loads(line) for line in reversed(listed.splitlines())]

    def _finals(self) -> list[str]:
        """Return the final checkpoints, oldest first."""
        return [str(item["uuid"]) for item in self._checkpoints() if item["checkpoint_type"] == "final"]

    def _run(self, *arguments: str, expect: Exit = Exit.OK) -> None:
        _prompt(arguments)
        done = subprocess.run([*_autovibe(), *arguments], env=self._environment, check=False)  # our own
        self._check(arguments, done.returncode, expect)

    def _output(self, *arguments: str) -> str:
        done = subprocess.run(  # our own command
            [*_autovibe(), *arguments], env=self._environment, check=False, stdout=subprocess.PIPE, text=True
        )
        self._check(arguments, done.returncode, Exit.OK)
        return done.stdout.strip()

    def _check(self, arguments: tuple[str, ...], exit_code: int, expect: Exit) -> None:
        if exit_code != expect:
            raise CliError(Exit.FAILED, f"autovibe {arguments[0]} ended with {exit_code}, expected {int(expect)}")
        if expect is not Exit.OK:
            console.say(f"(exit code {exit_code}, as it should be)")


def _autovibe() -> list[str]:
    return [sys.executable, "-m", "cli"]


def _environment(directory: Path) -> dict[str, str]:
    """The user's environment, pointed at the demo's hub and at nothing else."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("AUTOVIBE_")}
    return {
        **mine,
        "AUTOVIBE_CONTEXT": str(directory / "client.json"),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


def _wait_ready(hub: "subprocess.Popen[str]", directory: Path) -> None:
    for line in _lines(hub.stdout):
        if line.startswith('{"ready":true'):
            return
        console.note(line)
    hub.wait(START_S)
    raise CliError(Exit.FAILED, f"the hub did not start: exit code {hub.returncode}; its data is in {directory}")


def _lines(stream: IO[str] | None) -> Iterator[str]:
    """The lines of a command, as it prints them, without their ends."""
    assert stream is not None
    for line in stream:
        yield line.rstrip("\n")


def _goal(name: str) -> str:
    return (EXAMPLES / "goals" / name).read_text(encoding="utf-8")


def _title(text: str) -> None:
    console.say()
    console.say(console.paint(f"── {text}", console.BOLD))


def _prompt(arguments: tuple[str, ...]) -> None:
    shown = [f'"{console.first_line(part, 60)}"' if " " in part or "\n" in part else part for part in arguments]
    console.say(console.paint(f"$ autovibe {' '.join(shown)}", console.BLUE))


def _left_running(directory: Path) -> list[str]:
    """Return processes that still have to do with the demo's directory."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(directory) in command:
                found.append(f"{entry.name} {command[:100]}")
    return found
