"""What can be listed: each reporting table as pages, with its columns, its order and its filters."""

from typing import LiteralString

from events.words import (
    BudgetPeriod,
    BudgetScope,
    CheckpointType,
    HubType,
    MachineStatus,
    MachineType,
    Outcome,
    Phase,
    ProjectStatus,
    Resource,
    VerificationStatus,
)
from services.query.pages import Listing
from services.query.parameters import by_amount, by_flag, by_number, by_project, by_text, by_time, by_uuid, by_word

Columns = tuple[tuple[LiteralString, LiteralString], ...]
HUB_STATUSES = ("active", "inactive", "experimental", "retiring")


def _same(*names: LiteralString) -> Columns:
    return tuple((name, name) for name in names)


def _text(*names: LiteralString) -> Columns:
    """Exact numbers leave as strings: a JSON reader would make floats of them."""
    return tuple((name, f"{name}::text") for name in names)


def _slug(table: LiteralString) -> Columns:
    return (("project", f"(SELECT p.name FROM projects AS p WHERE p.uuid = {table}.project_uuid)"),)  # noqa: S608  # literals


PROJECTS = Listing(
    columns=(
        *_same("uuid", "name", "status", "description", "initial_checkpoint_uuid", "current_checkpoint_uuid"),
        *_text("greediness"),
        *_same("checkpoint_policy", "agent_policy", "metadata", "created_at", "updated_at", "last_seq"),
    ),
    source="projects",
    key="created_at",
    key_type="timestamptz",
    tie="uuid",
    tie_type="uuid",
    filters=(
        by_word("status", ProjectStatus, "status = %(status)s"),
        by_amount("greediness_min", "greediness >= %(greediness_min)s"),
        by_text("name", "name = %(name)s"),
        by_time("created_after", "created_at > %(created_after)s"),
    ),
    scope="uuid",
)

MACHINES = Listing(
    columns=(
        *_same("uuid", "machine_type", "model", "status", "phase", "outcome", "exit_code", "project_uuid"),
        *_slug("intelligent_machines"),
        *_same("parent_checkpoint_uuid", "vm_id", "hub_vm_id", "hypervisor", "node", "epoch", "original_prompt"),
        *_text("greediness"),
        *_same("file_modifications", "resource_constraints", "resource_usage", "current_progress", "progress_percent"),
        *_same(
            "error_message",
            "holds",
            "hold_reason",
            "held_until",
            "last_checkpoint_uuid",
            "checkpoint_count",
            "spawned_at",
            "updated_at",
        ),
        *_same("terminated_at", "metadata", "last_seq"),
    ),
    source="intelligent_machines",
    key="spawned_at",
    key_type="timestamptz",
    tie="uuid",
    tie_type="uuid",
    filters=(
        by_project("project_uuid = %(project)s"),
        by_word("status", MachineStatus, "status = %(status)s"),
        by_word("phase", Phase, "phase = %(phase)s"),
        by_word("type", MachineType, "machine_type = %(type)s"),
        by_word("outcome", Outcome, "outcome = %(outcome)s"),
        by_time("spawned_after", "spawned_at > %(spawned_after)s"),
        by_uuid("parent_checkpoint", "parent_checkpoint_uuid = %(parent_checkpoint)s"),
    ),
    scope="project_uuid",
)

CHECKPOINTS = Listing(
    columns=(
        *_same("uuid", "project_uuid"),
        *_slug("checkpoints"),
        *_same("parent_checkpoint_uuid", "creating_machine_uuid", "creating_epoch", "checkpoint_type"),
        *_same("creation_context", "proxmox_snapshot_id", "vm_id", "snapshot", "file_manifest", "description"),
        *_same("size_bytes", "stored_bytes"),
        *_text("compression_ratio"),
        *_same("verification_status", "pinned", "purged_at", "log_seq", "balance", "created_at", "verified_at"),
        *_same("metadata", "last_seq"),
    ),
    source="checkpoints",
    key="created_at",
    key_type="timestamptz",
    tie="uuid",
    tie_type="uuid",
    filters=(
        by_project("project_uuid = %(project)s"),
        by_uuid("machine", "creating_machine_uuid = %(machine)s"),
        by_uuid("parent", "parent_checkpoint_uuid = %(parent)s"),
        by_word("type", CheckpointType, "checkpoint_type = %(type)s"),
        by_word("verification", VerificationStatus, "verification_status = %(verification)s"),
        by_time("created_after", "created_at > %(created_after)s"),
    ),
    scope="project_uuid",
)

USAGE = Listing(
    columns=(
        *_same("uuid", "project_uuid", "machine_uuid", "epoch", "resource_type", "resource_subtype"),
        *_text("amount"),
        *_same("unit"),
        *_text("cost_cad", "cost"),
        *_same("currency", "recorded_at", "billing_period_start", "billing_period_end", "metadata", "last_seq"),
    ),
    source="resource_usage",
    key="recorded_at",
    key_type="timestamptz",
    tie="uuid",
    tie_type="uuid",
    filters=(
        by_project("project_uuid = %(project)s"),
        by_uuid("machine", "machine_uuid = %(machine)s"),
        by_word("type", Resource, "resource_type = %(type)s"),
        by_text("subtype", "resource_subtype = %(subtype)s"),
        by_time("since", "recorded_at >= %(since)s"),
        by_time("until", "recorded_at < %(until)s"),
    ),
    scope="project_uuid",
)

BUDGETS = Listing(
    columns=(
        *_same("uuid", "scope", "project_uuid", "machine_uuid", "node", "resource_type", "budget_period"),
        *_same("period_start", "period_end", "time_zone"),
        *_text("allocated_amount", "base_amount", "soft_amount", "used_amount", "reserved_amount"),
        *_same("thresholds", "carry_over", "on_exhausted"),
        ("available_amount", "(allocated_amount - used_amount - reserved_amount)::text"),
        *_same("unit", "auto_reset", "created_at", "updated_at", "last_seq"),
    ),
    source="resource_budgets",
    key="created_at",
    key_type="timestamptz",
    tie="uuid",
    tie_type="uuid",
    filters=(
        by_project("project_uuid = %(project)s"),
        by_uuid("machine", "machine_uuid = %(machine)s"),
        by_word("level", BudgetScope, "scope = %(level)s"),
        by_word("type", Resource, "resource_type = %(type)s"),
        by_word("period", BudgetPeriod, "budget_period = %(period)s"),
    ),
    scope="project_uuid",
)

HUBS = Listing(
    columns=(
        *_same("uuid", "hub_type", "status", "name", "vm_id", "version", "config", "parent_hub_uuid"),
        *_same("experiment_uuid", "spawned_at", "started_at", "last_checkpoint_at", "terminated_at", "metadata"),
        *_same("last_seq"),
    ),
    source="hub_instances",
    key="spawned_at",
    key_type="timestamptz",
    tie="uuid",
    tie_type="uuid",
    filters=(
        by_word("type", HubType, "hub_type = %(type)s"),
        by_word("status", HUB_STATUSES, "status = %(status)s"),
    ),
)

CREDENTIALS = Listing(
    columns=_same(
        "uuid",
        "kind",
        "name",
        "role",
        "projects",
        "public_key",
        "machine_uuid",
        "epoch",
        "issued_at",
        "expires_at",
        "revoked_at",
        "revoke_reason",
        "last_seq",
    ),
    source="credentials",
    key="issued_at",
    key_type="timestamptz",
    tie="uuid",
    tie_type="uuid",
    filters=(
        by_flag("all", "ended, revoked and machines' ones too").choosing(
            "(%(all)s OR (kind <> 'machine' AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())))"
        ),
    ),
    defaults={"all": False},
)

EVENTS = Listing(
    columns=_same(
        "seq",
        "id",
        "project",
        "aggregate",
        "aggregate_id",
        "type",
        "version",
        "occurred_at",
        "recorded_at",
        "actor",
        "cause",
        "correlation",
        "reason",
        "body",
    ),
    source="events",
    key="seq",
    key_type="bigint",
    tie="seq",
    tie_type="bigint",
    filters=(
        by_text("project", "project = %(project)s"),
        by_text("type", "type = %(type)s"),
        by_text("aggregate", "aggregate = %(aggregate)s"),
        by_text("id", "aggregate_id = %(id)s"),
        by_uuid("correlation", "correlation = %(correlation)s"),
        by_number("after", "seq > %(after)s"),
        by_number("before", "seq < %(before)s"),
        by_time("since", "recorded_at >= %(since)s"),
        by_text("actor", "actor = %(actor)s"),
    ),
    scope="project",
    scope_by_name=True,
)
