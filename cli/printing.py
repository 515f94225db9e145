"""How machines, events and checkpoints look to people; shared by the commands that follow a run."""

import re
import sys
from collections.abc import Callable

from cli import console
from cli.hub import Json

PHASE_OF_TYPE = {
    "MachineRequested": "requested",
    "MachineAdmitted": "admitted",
    "MachineQueued": "queued",
    "MachineProvisioningStarted": "provisioning",
    "MachineBooted": "starting",
    "MachineBecameReady": "ready",
    "MachineWorkStarted": "working",
    "MachineDrainingStarted": "draining",
    "MachineSealingStarted": "sealing",
    "MachineParked": "parked",
    "MachineContactLost": "unreachable",
    "MachineRecoveryStarted": "recovering",
    "MachineEndingStarted": "ending",
    "MachineStopRequested": "stop requested",
    "MachineRestoreRequested": "restore requested",
}
NOTE_OF_TYPE = {
    "CallSettled": "call",
    "CallRefused": "call refused",
    "BudgetThresholdCrossed": "budget warning",
    "BudgetExhausted": "budget used up",
    "MachineHeld": "held",
    "MachineResumed": "goes on",
}


def line_of_output(line: Json) -> str:
    """One line that a machine printed; stderr is red, what the agent says is dim."""
    text = console.printable(str(line["t"]))
    match line["s"]:
        case "stderr":
            return console.paint(text, console.RED)
        case "agent":
            return console.paint(f"[agent] {text}", console.DIM)
        case _:
            return text


def line_of_event(event: Json) -> str:
    """One event: when, where, what, and the part of its body that tells the story."""
    when = str(event["recorded_at"])[11:23]
    told = console.printable(_told(event["type"], event["body"]))
    name = console.paint(f"{event['type']:<28}", console.BOLD)
    return f"{event['seq']:>7}  {when}  {event['project']:<14} {name} {told}".rstrip()


def note_of_event(event: Json) -> str | None:
    """What a follower of a machine is told of an event; None: nothing."""
    body = event["body"]
    if event["type"] in PHASE_OF_TYPE:
        told = _told(event["type"], body)
        return f"{PHASE_OF_TYPE[event['type']]}{': ' + console.printable(told) if told else ''}"
    match event["type"]:
        case "MachineProgressed":
            return console.printable(f"progress: {body['message']}")
        case "CheckpointTaken":
            return f"checkpoint {event['aggregate_id']} ({body['creation_context']}, {changes(body)})"
        case "CheckpointFailed":
            return console.printable(f"checkpoint {event['aggregate_id']} failed: {body['reason']}")
        case told if told in NOTE_OF_TYPE:
            return f"{NOTE_OF_TYPE[event['type']]}: {console.printable(_told(event['type'], body))}"
        case _:
            return None


def note(text: str) -> None:
    """Say something about the machine beside its output."""
    console.note(console.paint(f"· {text}", console.DIM, sys.stderr))


def how_to_go_on(project: str, machine_id: str, held: Json) -> list[str]:
    """Say what to type so that a parked machine goes on; `held` has its hold and why, and until when where that is known."""
    stop = f"to end it: autovibe machine stop {machine_id}"
    if held["hold"] == "budget":
        named = re.search(r"autovibe budget [ -~]+$", held.get("reason") or "")
        if named is None:
            return [f"to go on, give it more; what is short: autovibe budget show {project}", stop]
        return [f"to go on, give it more: {named[0]}", stop]
    until = f"it goes on by itself after {held['until'][:19]}" if held.get("until") else "it goes on when that is over"
    return [until, stop]


def changes(body: Json) -> str:
    """`+2 ~1 -0`: files added, changed, removed since the parent."""
    return f"+{body.get('added', 0)} ~{body.get('changed', 0)} -{body.get('removed', 0)}"


def _told(type_name: str, body: Json) -> str:
    teller = TELLERS.get(type_name)
    return teller(body) if teller else console.first_line(body.get("reason") or body.get("message"), 80)


def _denied(body: Json) -> str:
    return f"{body['node']} has {body['available']} {body['unit']} of {body['resource']}, asked {body['asked']}"


def _lines(body: Json) -> str:
    return ", ".join(f"{line['amount']} {line['resource']}" for line in body["lines"])


def _allocated(body: Json) -> str:
    return f"{body['amount']} {body['unit']} {body['period']}"


def _call(body: Json) -> str:
    tokens = body["tokens"]
    read = sum(int(tokens.get(name, 0)) for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h"))
    told = f"{body['model']}, {read} tokens in, {tokens.get('output', 0)} out, {console.money(body['cost_cad'])}"
    return f"{told} (estimated)" if body.get("estimated") else told


def _held(body: Json) -> str:
    until = f", until {body['until']}" if body.get("until") else ""
    return f"{body['hold']}: {console.first_line(body.get('reason'), 400)}{until}"


def _parked(body: Json) -> str:
    until = f" until {body['until']}" if body.get("until") else ""
    return f"by {body['hold']}{until}, in checkpoint {body.get('checkpoint_id', '-')}"


def _crossed(body: Json) -> str:
    limit = f"soft limit of {body['soft']}" if body.get("soft") else f"{body['percent']} %"
    return f"{limit} of {body['resource']} ({body['period']}): {body['used']} of {body['allocated']} used"


def _exhausted(body: Json) -> str:
    return f"{body['resource']} ({body['period']}): {body['used']} of {body['allocated']} used"


TELLERS: dict[str, Callable[[Json], str]] = {
    "MachineRequested": lambda body: console.first_line(body["goal"], 60),
    "MachineDenied": _denied,
    "MachineQueued": lambda body: f"{body['hold']} at {body['node']}",
    "MachineAdmitted": lambda body: "holds " + ", ".join(f"{amount} {name}" for name, amount in body["held"].items()),
    "MachineProvisioningStarted": lambda body: (
        f"epoch {body['epoch']} on {body['hypervisor']} from {body['from_checkpoint_id']}"
    ),
    "MachineBecameReady": lambda body: f"restored in {body.get('restore_ms', 0)} ms",
    "MachineEnded": lambda body: body["outcome"] + (f", exit code {body['exit_code']}" if "exit_code" in body else ""),
    "CheckpointTaken": lambda body: f"{body['checkpoint_type']} {body['file_count']} files {changes(body)}",
    "CallSettled": _call,
    "CallRefused": lambda body: (
        f"{body['model']} asked {body['asked']} {body['unit']}, {body['node']} has {body['available']} left"
    ),
    "MachineHeld": _held,
    "MachineParked": _parked,
    "MachineResumed": lambda body: f"no longer held by {body['hold']}",
    "UsageRecorded": lambda body: (
        f"{body['amount']} {body['unit']} {body['resource_type']}, {console.money(body['cost_cad'])}"
    ),
    "BudgetAllocated": _allocated,
    "BudgetRequested": _allocated,
    "BudgetReserved": _lines,
    "BudgetSettled": _lines,
    "BudgetExtended": _lines,
    "BudgetDrawn": _lines,
    "BudgetTopUpRequested": _allocated,
    "BudgetThresholdCrossed": _crossed,
    "BudgetExhausted": _exhausted,
    "CallReserved": lambda body: f"{body['model']}, holds " + ", ".join(f"{v} {k}" for k, v in body["held"].items()),
    "PriceTableLoaded": lambda body: f"{body['source']}, {body['models']} models",
}
"""What of an event's body tells its story in a line."""
