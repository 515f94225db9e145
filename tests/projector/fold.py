"""The read models folded once more, in plain Python, one event at a time: what the SQL must come to."""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from events import budget, call, checkpoint, credential, hub, machine, project
from events.base import Event
from events.budget import UNIT_OF
from events.ids import HUB, project_uuid
from events.words import STATUS_OF_PHASE, Phase
from tests.projector.histories import Said, event_id, recorded_at

Row = dict[str, Any]
Tables = dict[str, dict[tuple[Any, ...], Row]]
RATIO_MAX = Decimal("999.9999")


def fold(history: Sequence[Said]) -> Tables:
    """Return every read model's rows by key."""
    world = _World()
    for seq, item in enumerate(history, 1):
        world.hear(seq, item)
    return world.tables


def _body(event: Event) -> Any:  # noqa: ANN401 # any JSON
    """Return the body as jsonb can hold it: without NUL."""
    return _without_nul(json.loads(event.body()))


def _without_nul(value: Any) -> Any:  # noqa: ANN401 # any JSON
    match value:
        case str():
            return value.replace("\0", "\ufffd")
        case list():
            return [_without_nul(item) for item in cast("list[Any]", value)]
        case dict():
            found = cast("dict[str, Any]", value)
            return {_without_nul(key): _without_nul(item) for key, item in found.items()}
        case _:
            return value


class _World:
    def __init__(self) -> None:
        names = "projects intelligent_machines checkpoints resource_usage usage_totals budget_reservations"
        names += " budget_reservation_lines resource_budgets credentials hub_instances"
        self.tables: Tables = {name: {} for name in names.split()}
        self._calls: dict[tuple[str, str, str], list[Row]] = {}
        self.seq = 0
        self.at = recorded_at(0)

    def hear(self, seq: int, item: Said) -> None:
        self.seq, self.at = seq, recorded_at(seq)
        event, where = item.event, item.address
        body = _body(event)
        match event:
            case project.ProjectEvent():
                self._project(where.project, event, body)
            case machine.MachineEvent():
                if isinstance(event, machine.UsageRecorded):
                    self._usage(where.project, UUID(where.id), event, body)
                self._machine(where.project, UUID(where.id), event, body)
            case checkpoint.CheckpointEvent():
                self._checkpoint(where.project, UUID(where.id), event, body)
            case call.CallSettled() | call.CallCorrected():
                self._call(where.project, where.id, event, body)
            case budget.BudgetEvent():
                self._budget(where.project, where.id, event)
            case credential.CredentialEvent():
                self._credential(where.project, UUID(where.id), event, body)
            case hub.HubEvent():
                self._hub(UUID(where.id), event, body)
            case _:
                pass

    def _project(self, slug: str, event: project.ProjectEvent, body: Row) -> None:
        rows, key = self.tables["projects"], (project_uuid(slug),)
        row = rows.get(key)
        match event:
            case project.ProjectCreated() if row is None:
                rows[key] = {
                    "uuid": key[0],
                    "name": slug,
                    "description": body["description"],
                    "greediness": event.greediness,
                    "status": "active",
                    "initial_checkpoint_uuid": None,
                    "current_checkpoint_uuid": None,
                    "checkpoint_policy": body["checkpoint_policy"],
                    "agent_policy": body["agent_policy"],
                    "metadata": body["metadata"],
                    "created_at": self.at,
                    "updated_at": self.at,
                    "last_seq": self.seq,
                }
                return
            case project.ProjectUpdated() if row is not None:
                row |= {
                    name: body[name]
                    for name in ("description", "status", "checkpoint_policy", "agent_policy", "metadata")
                    if name in body
                }
                if event.greediness is not None:
                    row["greediness"] = event.greediness
                if event.current_checkpoint_id is not None:
                    row["current_checkpoint_uuid"] = event.current_checkpoint_id
            case project.ProjectArchived() if row is not None:
                row["status"] = "archived"
            case project.ProjectAdvanced() if row is not None:
                row["current_checkpoint_uuid"] = event.checkpoint_id
                row["initial_checkpoint_uuid"] = row["initial_checkpoint_uuid"] or event.checkpoint_id
            case _:
                return
        row |= {"updated_at": self.at, "last_seq": self.seq}

    def _checkpoint(self, slug: str, uuid: UUID, event: checkpoint.CheckpointEvent, body: Row) -> None:
        rows, key = self.tables["checkpoints"], (uuid,)
        row = rows.get(key)
        match event:
            case checkpoint.CheckpointTaken():
                if row is None:
                    rows[key] = self._taken(slug, uuid, event, body)
                self._machine_checkpointed(event, uuid)
                return
            case _ if row is None:
                return
            case checkpoint.CheckpointVerified():
                row |= {"verification_status": "verified", "verified_at": self.at}
            case checkpoint.CheckpointCorrupted():
                row |= {"verification_status": "corrupt", "verified_at": self.at}
            case checkpoint.CheckpointPinned():
                row["pinned"] = True
            case checkpoint.CheckpointUnpinned():
                row["pinned"] = False
            case checkpoint.CheckpointPurged():
                row["purged_at"] = self.at
            case _:
                return
        row["last_seq"] = self.seq

    def _taken(self, slug: str, uuid: UUID, event: checkpoint.CheckpointTaken, body: Row) -> Row:
        counts = ("file_count", "added", "changed", "removed", "skipped", "captured_bytes", "capture_ms")
        ratio = None
        if event.stored_bytes:
            ratio = min(round(Decimal(event.captured_bytes) / event.stored_bytes, 4), RATIO_MAX)
        return {
            "uuid": uuid,
            "project_uuid": project_uuid(slug),
            "parent_checkpoint_uuid": event.parent_id,
            "creating_machine_uuid": event.machine_id,
            "creating_epoch": event.epoch,
            "checkpoint_type": event.checkpoint_type.value,
            "creation_context": event.creation_context.value,
            "proxmox_snapshot_id": None,
            "vm_id": None,
            "snapshot": event.snapshot,
            "file_manifest": {"digest": event.snapshot, **{name: body[name] for name in counts}},
            "description": body["description"],
            "size_bytes": event.size_bytes,
            "stored_bytes": event.stored_bytes,
            "compression_ratio": ratio,
            "verification_status": "pending",
            "pinned": False,
            "log_seq": event.log_seq,
            "balance": body["balance"],
            "metadata": {},
            "created_at": self.at,
            "verified_at": None,
            "purged_at": None,
            "last_seq": self.seq,
        }

    def _machine_checkpointed(self, event: checkpoint.CheckpointTaken, uuid: UUID) -> None:
        row = self.tables["intelligent_machines"].get((event.machine_id,))
        if row is not None:
            row["checkpoint_count"] += 1
            row["last_checkpoint_uuid"] = uuid
            row["epoch"] = max(row["epoch"], event.epoch or 0)
            row |= {"updated_at": self.at, "last_seq": self.seq}

    def _machine(self, slug: str, uuid: UUID, event: machine.MachineEvent, body: Row) -> None:
        rows, key = self.tables["intelligent_machines"], (uuid,)
        row = rows.get(key)
        if isinstance(event, machine.MachineRequested):
            if row is None:
                rows[key] = self._requested(slug, uuid, event, body)
            return
        if row is None:
            return
        if event.phase is not None:
            row |= {"phase": event.phase.value, "status": STATUS_OF_PHASE[event.phase].value}
        row["epoch"] = max(row["epoch"], body.get("epoch", 0))
        row["holds"] = sorted(_held(set(row["holds"]), event))
        row |= _explained(event, body)
        row |= self._changes(row, uuid, event, body) | {"updated_at": self.at, "last_seq": self.seq}

    def _changes(self, row: Row, uuid: UUID, event: machine.MachineEvent, body: Row) -> Row:  # noqa: PLR0911 # a return per event
        match event:
            case machine.MachineProvisioningStarted():
                parent = row["parent_checkpoint_uuid"] or event.from_checkpoint_id
                return {"hypervisor": body["hypervisor"], "node": body["node"], "parent_checkpoint_uuid": parent}
            case machine.MachineBooted():
                return {"vm_id": body["vm_id"]}
            case machine.MachineProgressed():
                percent = row["progress_percent"] if event.percent is None else event.percent
                return {"current_progress": body["message"], "progress_percent": percent}
            case machine.MachineQuarantined():
                return {"error_message": body["reason"] or None}
            case machine.MachineDenied():
                return {"error_message": body["reason"] or None, "outcome": "denied", "terminated_at": self.at}
            case machine.MachineEnded():
                failed = event.outcome != "succeeded"
                return {
                    "error_message": (body["reason"] or None) if failed else None,
                    "outcome": event.outcome.value,
                    "exit_code": row["exit_code"] if event.exit_code is None else event.exit_code,
                    "terminated_at": self.at,
                }
            case machine.UsageRecorded():
                return {"resource_usage": self._used(uuid)}
            case _:
                return {}

    def _requested(self, slug: str, uuid: UUID, event: machine.MachineRequested, body: Row) -> Row:
        files = [
            {name: value for name, value in file.items() if name != "text"}
            | ({"size_bytes": len(file["text"].encode())} if "text" in file else {})
            for file in body["files"]
        ]
        caps = {"budget_cad": body.get("budget"), "calls": body.get("calls")}
        nothing = dict.fromkeys(
            [
                "outcome",
                "exit_code",
                "hypervisor",
                "node",
                "vm_id",
                "hub_vm_id",
                "last_checkpoint_uuid",
                "current_progress",
                "progress_percent",
                "error_message",
                "terminated_at",
            ]
        )
        return nothing | {
            "uuid": uuid,
            "project_uuid": project_uuid(slug),
            "machine_type": event.machine_type.value,
            "status": STATUS_OF_PHASE[Phase.REQUESTED].value,
            "phase": Phase.REQUESTED.value,
            "epoch": 0,
            "parent_checkpoint_uuid": event.from_checkpoint_id,
            "checkpoint_count": 0,
            "original_prompt": body["goal"],
            "greediness": event.greediness,
            "file_modifications": files,
            "resource_constraints": body["limits"] | {name: cap for name, cap in caps.items() if cap is not None},
            "resource_usage": {},
            "holds": [],
            "model": body.get("model"),
            "hold_reason": None,
            "held_until": None,
            "metadata": body["metadata"],
            "spawned_at": self.at,
            "updated_at": self.at,
            "last_seq": self.seq,
        }

    def _usage(self, slug: str, uuid: UUID, event: machine.UsageRecorded, body: Row) -> None:
        common = {"project_uuid": project_uuid(slug), "machine_uuid": uuid, "last_seq": self.seq}
        same = ("epoch", "resource_type", "resource_subtype", "unit", "currency", "metadata")
        self._count(
            common
            | {name: body[name] for name in same}
            | {
                "uuid": event_id(self.seq),
                "amount": event.amount,
                "cost_cad": event.cost_cad,
                "cost": event.cost,
                "billing_period_start": event.period_start,
                "billing_period_end": event.period_end,
            }
        )

    def _count(self, used: Row) -> None:
        self.tables["resource_usage"][used["uuid"], self.at] = used | {"recorded_at": self.at}
        same = ("project_uuid", "machine_uuid", "resource_type", "resource_subtype", "unit")
        row = self.tables["usage_totals"].setdefault(
            (used["machine_uuid"], used["resource_type"], used["resource_subtype"], used["unit"]),
            {name: used[name] for name in same} | {"amount": Decimal(0), "cost_cad": Decimal(0), "records": 0},
        )
        row["amount"] += used["amount"]
        row["cost_cad"] += used["cost_cad"]
        row["records"] += 1
        row["last_seq"] = self.seq

    def _call(self, slug: str, node: str, event: call.CallSettled | call.CallCorrected, body: Row) -> None:
        """One row with the call's cost and one per class of tokens; of a correction the differences."""
        said = self._calls.setdefault((slug, node, body["call_id"]), [])
        said.append(body)
        is_settled = isinstance(event, call.CallSettled)
        first = body if is_settled else next((one for one in said if "provider" in one), None)
        machine_id = _uuid(node)
        if machine_id is not None and first is not None:
            before: Row = {} if is_settled else said[-2]
            self._count_call(slug, machine_id, event, (body, first, before))
        row = self.tables["intelligent_machines"].get((machine_id,))
        if row is not None:
            assert machine_id is not None
            row["epoch"] = max(row["epoch"], body.get("epoch", 0))
            row |= {"resource_usage": self._used(machine_id), "updated_at": self.at, "last_seq": self.seq}

    def _count_call(
        self, slug: str, uuid: UUID, event: call.CallSettled | call.CallCorrected, bodies: tuple[Row, Row, Row]
    ) -> None:
        body, first, before = bodies
        settled = event if isinstance(event, call.CallSettled) else None
        common = {
            "project_uuid": project_uuid(slug),
            "machine_uuid": uuid,
            "epoch": first["epoch"],
            "billing_period_start": settled.began_at if settled else _occurred_at(self.seq),
            "billing_period_end": settled.ended_at if settled else _occurred_at(self.seq),
            "last_seq": self.seq,
        }
        named = ("stop_reason", "estimated", "price_id", "server_tools")
        about = {"call_id": body["call_id"], "model": first["model"], "provider": first["provider"]}
        more = {name: first[name] for name in named if name in first}
        self._count(
            common
            | {
                "uuid": event_id(self.seq),
                "resource_type": "api_calls",
                "resource_subtype": first.get("machine_type") or first["provider"],
                "amount": Decimal(1 if settled else 0),
                "unit": "calls",
                "cost_cad": event.cost_cad - Decimal(before.get("cost_cad", "0")),
                "cost": settled.cost if settled else None,
                "currency": settled.currency if settled else "CAD",
                "metadata": about | more | ({} if settled else {"corrected": body["reason"]}),
            }
        )
        for name in ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h"):
            most = 99_999_999_999
            amount = min(body["tokens"][name], most) - min(before.get("tokens", {}).get(name, 0), most)
            if amount:
                self._count(
                    common
                    | {
                        "uuid": UUID(hashlib.md5(f"{event_id(self.seq)}/{name}".encode()).hexdigest()),  # an id
                        "resource_type": "tokens",
                        "resource_subtype": name,
                        "amount": Decimal(amount),
                        "unit": "tokens",
                        "cost_cad": Decimal(0),
                        "cost": None,
                        "currency": "CAD",
                        "metadata": about,
                    }
                )

    def _used(self, uuid: UUID) -> Row:
        rows = [row for key, row in self.tables["usage_totals"].items() if key[0] == uuid]
        if not rows:
            return {}
        used: Row = {"cost_cad": _plain(sum((row["cost_cad"] for row in rows), Decimal(0)))}
        for resource in {row["resource_type"] for row in rows}:
            of_it = [row for row in rows if row["resource_type"] == resource]
            used[resource] = {"cost_cad": _plain(sum((row["cost_cad"] for row in of_it), Decimal(0)))}
            for unit in {row["unit"] for row in of_it}:
                used[resource][unit] = _plain(sum((row["amount"] for row in of_it if row["unit"] == unit), Decimal(0)))
        return used

    def _budget(self, slug: str, node: str, event: budget.BudgetEvent) -> None:
        match event:
            case budget.BudgetAllocated():
                row = self._account(slug, node, event.resource.value, event.period.value, event.period_start)
                row |= {
                    "unit": event.unit.value,
                    "period_end": event.period_end,
                    "time_zone": _without_nul(event.time_zone),
                    "auto_reset": event.auto_reset,
                    "allocated_amount": event.amount,
                    "soft_amount": event.soft,
                    "base_amount": event.base_amount,
                    "thresholds": list(event.thresholds),
                    "carry_over": event.carry.value,
                    "on_exhausted": event.on_exhausted.value,
                }
            case budget.BudgetExtended() | budget.BudgetDrawn():
                self._change(slug, node, event)
            case budget.BudgetReserved():
                self._reserve(slug, node, event)
            case budget.BudgetSettled():
                self._resolve(slug, node, event.reservation_id, "settled")
                for line in event.lines:
                    self._account_of(slug, node, line)["used_amount"] += line.amount
            case budget.BudgetReleased():
                self._resolve(slug, node, event.reservation_id, "released")
            case _:
                pass

    def _reserve(self, slug: str, node: str, event: budget.BudgetReserved) -> None:
        key = (event.reservation_id, node, project_uuid(slug))
        if key in self.tables["budget_reservations"]:
            return
        self.tables["budget_reservations"][key] = {
            "project_uuid": key[2],
            "node": node,
            "reservation_uuid": event.reservation_id,
            "scope": _scope(slug, node),
            "machine_uuid": event.machine_id,
            "lines": _body(event)["lines"],
            "resolution": None,
            "reserved_at": self.at,
            "resolved_at": None,
            "reserved_seq": self.seq,
            "resolved_seq": None,
            "last_seq": self.seq,
        }
        for line in event.lines:
            self._hold(key, line, line.amount)
            self._account_of(slug, node, line)["reserved_amount"] += line.amount

    def _change(self, slug: str, node: str, event: budget.BudgetExtended | budget.BudgetDrawn) -> None:
        key = (event.reservation_id, node, project_uuid(slug))
        reservation = self.tables["budget_reservations"].get(key)
        is_open = reservation is not None and reservation["resolution"] is None
        for line in event.lines:
            amount = -line.amount if isinstance(event, budget.BudgetDrawn) else line.amount
            if is_open:
                self._hold(key, line, amount)
                self._account_of(slug, node, line)["reserved_amount"] += amount
            if isinstance(event, budget.BudgetDrawn):
                self._account_of(slug, node, line)["used_amount"] += line.amount

    def _hold(self, key: tuple[UUID, str, UUID], line: budget.Line, amount: Decimal) -> None:
        of = (*key, line.resource.value, line.period.value, line.period_start)
        names = ("reservation_uuid", "node", "project_uuid", "resource_type", "budget_period", "period_start")
        row = self.tables["budget_reservation_lines"].setdefault(
            of, dict(zip(names, of, strict=True)) | {"held_amount": Decimal(0)}
        )
        row["held_amount"] += amount
        row["last_seq"] = self.seq

    def _resolve(self, slug: str, node: str, reservation: UUID, how: str) -> None:
        key = (reservation, node, project_uuid(slug))
        row = self.tables["budget_reservations"].get(key)
        if row is None or row["resolution"] is not None:
            return
        row |= {"resolution": how, "resolved_at": self.at, "resolved_seq": self.seq, "last_seq": self.seq}
        for of, held in self.tables["budget_reservation_lines"].items():
            if of[:3] == key:
                self._account(slug, node, *of[3:])["reserved_amount"] -= held["held_amount"]

    def _account_of(self, slug: str, node: str, line: budget.Line) -> Row:
        return self._account(slug, node, line.resource.value, line.period.value, line.period_start)

    def _account(self, slug: str, node: str, resource: str, period: str, start: datetime) -> Row:
        scope = _scope(slug, node)
        row = self.tables["resource_budgets"].setdefault(
            (project_uuid(slug), node, resource, period, start),
            {
                "scope": scope,
                "project_uuid": project_uuid(slug),
                "machine_uuid": UUID(node) if scope == "machine" else None,
                "node": node,
                "resource_type": resource,
                "unit": UNIT_OF[resource].value,  # pyright: ignore[reportArgumentType] # a StrEnum's value is its key
                "budget_period": period,
                "period_start": start,
                "period_end": None,
                "time_zone": "UTC",
                "auto_reset": True,
                "allocated_amount": None,
                "soft_amount": None,
                "base_amount": None,
                "thresholds": [50, 80, 95, 100],
                "carry_over": "none",
                "on_exhausted": "park",
                "used_amount": Decimal(0),
                "reserved_amount": Decimal(0),
                "created_at": self.at,
            },
        )
        return row_touched(row, self.at, self.seq)

    def _credential(self, slug: str, uuid: UUID, event: credential.CredentialEvent, body: Row) -> None:
        rows, key = self.tables["credentials"], (uuid,)
        row = rows.get(key)
        if isinstance(event, credential.CredentialIssued) and row is None:
            rows[key] = {
                "uuid": uuid,
                "project_uuid": project_uuid(slug),
                **{name: body[name] for name in ("kind", "name", "role", "projects")},
                "public_key": body.get("public_key"),
                "machine_uuid": event.machine_id,
                "epoch": event.epoch,
                "issued_at": self.at,
                "expires_at": event.expires_at,
                "revoked_at": None,
                "revoke_reason": None,
                "last_seq": self.seq,
            }
        elif isinstance(event, credential.CredentialRevoked) and row is not None:
            if row["revoked_at"] is None:
                row |= {"revoked_at": self.at, "revoke_reason": body["reason"]}
            row["last_seq"] = self.seq

    def _hub(self, uuid: UUID, event: hub.HubEvent, body: Row) -> None:
        rows, key = self.tables["hub_instances"], (uuid,)
        row = rows.get(key)
        if isinstance(event, hub.HubRegistered):
            if row is None:
                nothing = dict.fromkeys(
                    ["vm_id", "parent_hub_uuid", "experiment_uuid", "started_at", "last_checkpoint_at", "terminated_at"]
                )
                rows[key] = nothing | {
                    "uuid": uuid,
                    "hub_type": body["hub_type"],
                    "status": _up(body["hub_type"]),
                    "name": body["name"],
                    "version": body["hub_version"],
                    "config": body["config"],
                    "spawned_at": self.at,
                    "metadata": {},
                    "last_seq": self.seq,
                }
        elif row is not None:
            if isinstance(event, hub.HubStarted):
                row |= {"status": _up(row["hub_type"]), "version": body["hub_version"], "started_at": self.at}
            else:
                row["status"] = "inactive"
            row["last_seq"] = self.seq


def row_touched(row: Row, at: datetime, seq: int) -> Row:
    row |= {"updated_at": at, "last_seq": seq}
    return row


def _explained(event: machine.MachineEvent, body: Row) -> Row:
    """Why a machine is held, and until when; nothing where the event has nothing to do with it."""
    match event:
        case machine.MachineHeld() | machine.MachineParked():
            return {"hold_reason": body["reason"] or None, "held_until": event.until}
        case machine.MachineResumed() | machine.MachineAdmitted() | machine.MachineEnded() | machine.MachineDenied():
            return {"hold_reason": None, "held_until": None}
        case _:
            return {}


def _uuid(node: str) -> UUID | None:
    try:
        return UUID(node)
    except ValueError:
        return None


def _occurred_at(seq: int) -> datetime:
    return recorded_at(seq) - timedelta(milliseconds=3)


def _held(holds: set[str], event: machine.MachineEvent) -> set[str]:
    match event:
        case machine.MachineHeld() | machine.MachineParked():
            return holds | {event.hold.value}
        case machine.MachineResumed():
            return holds - {event.hold.value}
        case machine.MachineQueued():
            return holds - {"budget", "capacity"} | {event.hold.value}
        case machine.MachineAdmitted():
            return holds - {"budget", "capacity"}
        case machine.MachineEnded() | machine.MachineDenied():
            return set()
        case _:
            return holds


def _scope(slug: str, node: str) -> str:
    if node != slug:
        return "machine"
    return "hub" if slug == HUB else "project"


def _up(hub_type: str) -> str:
    return "experimental" if hub_type == "experimental" else "active"


def _plain(amount: Decimal) -> str:
    """Return the amount as PostgreSQL's trim_scale prints it."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
