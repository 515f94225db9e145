"""`autovibe project …`"""

from pathlib import Path
from typing import Annotated, cast

import typer

from cli import console, units, watch
from cli.commands import policy
from cli.commands.budgets import allocate
from cli.exits import CliError, Exit
from cli.framing import AsJson, Limit, Project, framed, group
from cli.hub import Hub, Json, connect, segment
from cli.store import upload_tree

START_S = 60.0
"""How long the first checkpoint may take; it is already uploaded by then."""

app = group("project", "Projects: where machines start from and what they may spend.")


@app.command()
@framed
def create(
    name: Annotated[str, typer.Argument(help="Slug: a-z, 0-9 and -, at most 63.", show_default=False)],
    source: Annotated[str | None, typer.Option("--from", help="Directory that becomes the first checkpoint.")] = None,
    budget: Annotated[str | None, typer.Option(help="What it may spend in all, e.g. 5CAD.")] = None,
    greediness: Annotated[str, typer.Option(help="0.0 to 1.0: its weight when budgets are shared.")] = "0.5",
    description: Annotated[str, typer.Option(help="For humans.")] = "",
    agent: policy.Agent = None,
    model: policy.Model = None,
    model_allowed: policy.ModelAllowed = None,
    cpu: policy.Cpu = None,
    memory: policy.Memory = None,
    disk: policy.Disk = None,
    deadline: policy.Deadline = None,
    env: policy.Env = None,
    setup: policy.Setup = None,
    conversation: policy.Conversation = None,
    checkpoint_every: policy.Every = None,
    between_calls: policy.Between = None,
    calls_max: policy.CallsMax = None,
    before_risk: policy.BeforeRisk = None,
    risk_rule: policy.RiskRule = None,
    as_json: AsJson = False,
) -> None:
    """Create a project, from a directory or empty."""
    said: policy.Said = {
        "agent": agent,
        "model": model,
        "model_allowed": model_allowed,
        "cpu": cpu,
        "memory": memory,
        "disk": disk,
        "deadline": deadline,
        "env": env,
        "setup": setup,
        "conversation": conversation,
        "checkpoint_every": checkpoint_every,
        "between_calls": between_calls,
        "calls_max": calls_max,
        "before_risk": before_risk,
        "risk_rule": risk_rule,
    }
    hub = connect()
    amount = units.money(budget, "--budget") if budget else None
    if amount and amount[1] != "CAD":
        raise CliError(Exit.USAGE, f"--budget {budget!r}: budgets are in CAD")
    body: dict[str, object] = {"name": name, "greediness": units.greediness(greediness), "description": description}
    _add_policies(body, said, {})
    if source is not None:
        if not Path(source).is_dir():
            raise CliError(Exit.USAGE, f"--from {source!r} is not a directory that exists")
        _refuse_if_there(hub, name)
        uploaded = upload_tree(hub.context, source)
        body["genesis"] = uploaded.digest
        if not as_json:
            console.note(f"captured {uploaded.file_count} files, {console.size(uploaded.size_bytes)}")
    answer = hub.post("/api/v1/projects", body)
    if amount:
        _allocate(hub, name, *amount)
    project = _when_it_starts(hub, name, answer["seq"])
    if as_json:
        console.emit(project)
    else:
        console.say(f"project {name} starts from checkpoint {project['current_checkpoint_uuid']}")


@app.command("ls")
@framed
def list_(limit: Limit = 50, as_json: AsJson = False) -> None:
    """List projects."""
    items = connect().pages("/api/v1/projects", limit)
    if as_json:
        for item in items:
            console.emit(item)
        return
    rows = [
        (p["name"], p["status"], p["greediness"], p["current_checkpoint_uuid"], p["created_at"][:19]) for p in items
    ]
    console.table(("NAME", "STATUS", "GREEDINESS", "CURRENT CHECKPOINT", "CREATED"), rows)


@app.command()
@framed
def show(name: Project, as_json: AsJson = False) -> None:
    """Show one project."""
    project = connect().get(f"/api/v1/projects/{segment(name)}")
    if as_json:
        console.emit(project)
        return
    for field in ("name", "status", "description", "greediness", "initial_checkpoint_uuid", "current_checkpoint_uuid"):
        console.say(f"{field:<24}{console.printable(str(project[field]))}")
    for group_of, settings in (("agent", project["agent_policy"]), ("checkpoints", project["checkpoint_policy"])):
        for name_of, value in settings.items():
            if value not in (None, "", [], {}):
                field = f"{group_of}.{name_of}"
                console.say(f"{field:<24}{console.first_line(_shown(value), 200)}")


@app.command("set")
@framed
def set_(
    name: Project,
    greediness: Annotated[str | None, typer.Option(help="0.0 to 1.0.")] = None,
    description: Annotated[str | None, typer.Option(help="For humans.")] = None,
    paused: Annotated[bool | None, typer.Option("--paused/--active", help="Whether it takes requests.")] = None,
    agent: policy.Agent = None,
    model: policy.Model = None,
    model_allowed: policy.ModelAllowed = None,
    cpu: policy.Cpu = None,
    memory: policy.Memory = None,
    disk: policy.Disk = None,
    deadline: policy.Deadline = None,
    env: policy.Env = None,
    setup: policy.Setup = None,
    conversation: policy.Conversation = None,
    checkpoint_every: policy.Every = None,
    between_calls: policy.Between = None,
    calls_max: policy.CallsMax = None,
    before_risk: policy.BeforeRisk = None,
    risk_rule: policy.RiskRule = None,
    as_json: AsJson = False,
) -> None:
    """Change a project's settings; what is not named stays. Machines that run already keep what they have."""
    said: policy.Said = {
        "agent": agent,
        "model": model,
        "model_allowed": model_allowed,
        "cpu": cpu,
        "memory": memory,
        "disk": disk,
        "deadline": deadline,
        "env": env,
        "setup": setup,
        "conversation": conversation,
        "checkpoint_every": checkpoint_every,
        "between_calls": between_calls,
        "calls_max": calls_max,
        "before_risk": before_risk,
        "risk_rule": risk_rule,
    }
    body: dict[str, object] = {}
    if greediness is not None:
        body["greediness"] = units.greediness(greediness)
    if description is not None:
        body["description"] = description
    if paused is not None:
        body["status"] = "paused" if paused else "active"
    hub = connect()
    if any(value is not None for value in said.values()):
        _add_policies(body, said, hub.get(f"/api/v1/projects/{segment(name)}"))
    if not body:
        raise CliError(Exit.USAGE, "nothing to set", remedy="autovibe project set --help lists what there is")
    _done(hub.post(f"/api/v1/projects/{segment(name)}", body, method="PATCH"), as_json=as_json)


@app.command()
@framed
def archive(
    name: Project, reason: Annotated[str, typer.Option(help="Why; stands in the log.")] = "", as_json: AsJson = False
) -> None:
    """Take no more requests for a project; its history stays."""
    _done(connect().post(f"/api/v1/projects/{segment(name)}/archive", {"reason": reason}), as_json=as_json)


def _add_policies(body: dict[str, object], said: policy.Said, project: Json) -> None:
    if agent := policy.agent_policy(said, project.get("agent_policy", {})):
        body["agent_policy"] = agent
    if checkpoints := policy.checkpoint_policy(said, project.get("checkpoint_policy", {})):
        body["checkpoint_policy"] = checkpoints


def _shown(value: object) -> str:
    """A setting on one line."""
    match value:
        case list():
            return "; ".join(_shown(each) for each in cast("list[object]", value))
        case dict():
            return " ".join(f"{name}={_shown(each)}" for name, each in cast("dict[str, object]", value).items())
        case _:
            return str(value)


def _refuse_if_there(hub: Hub, name: str) -> None:
    """Before a directory is read and sent for nothing; the door decides all the same."""
    try:
        hub.get(f"/api/v1/projects/{segment(name)}")
    except CliError as error:
        if error.exit_code is not Exit.NOT_FOUND:
            raise
        return
    raise CliError(Exit.REFUSED, f"project {name} exists already")


def _allocate(hub: Hub, name: str, amount: str, unit: str) -> None:
    """A project whose budget was not set has no cap: that must not pass unsaid."""
    try:
        allocate(hub, name, {"project": name, "amount": amount, "unit": unit})
    except CliError as error:
        message = f"project {name} is there, but without its budget: {error.message}"
        remedy = f"autovibe budget set {name} AMOUNT"
        raise CliError(error.exit_code, message, remedy=remedy, problem=error.problem) from error


def _done(answer: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        console.emit(answer)
    else:
        console.say(f"done, event {answer['seq']}")


def _when_it_starts(hub: Hub, name: str, seq: int) -> Json:
    """Wait until the project has its first checkpoint: from then on machines can start."""
    said = watch.until(hub, seq, frozenset({"ProjectAdvanced", "CheckpointFailed"}), START_S, project=name)
    if said["type"] == "CheckpointFailed":
        raise CliError(Exit.FAILED, f"project {name} has no first checkpoint: {said['body'].get('reason', '')}")
    return hub.get(f"/api/v1/projects/{segment(name)}", at_least_seq=said["seq"])
