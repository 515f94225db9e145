"""The tables are the ones people rely on, made once, and read by a role that can do nothing else."""

import re
from collections.abc import AsyncIterator, Iterator
from enum import StrEnum
from typing import get_args
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from psycopg import errors

from cli.stack.postgres import EmbeddedPostgres
from events import words
from events.credential import CredentialKind
from schema.migrations import MigrationError, all_migrations, apply, pending

COLUMNS = {
    "projects": """
        uuid name greediness status description initial_checkpoint_uuid current_checkpoint_uuid
        metadata created_at updated_at
    """,
    "intelligent_machines": """
        uuid machine_type status phase outcome project_uuid parent_checkpoint_uuid vm_id hub_vm_id
        hypervisor node epoch original_prompt file_modifications resource_constraints resource_usage
        current_progress error_message holds last_checkpoint_uuid checkpoint_count spawned_at
        terminated_at metadata
    """,
    "checkpoints": """
        uuid project_uuid parent_checkpoint_uuid creating_machine_uuid checkpoint_type
        proxmox_snapshot_id vm_id file_manifest description creation_context size_bytes
        compression_ratio verification_status pinned purged_at log_seq balance created_at verified_at
        metadata
    """,
    "resource_usage": """
        uuid project_uuid machine_uuid resource_type resource_subtype amount unit cost_cad recorded_at
        billing_period_start billing_period_end metadata
    """,
    "resource_budgets": """
        uuid scope project_uuid machine_uuid resource_type budget_period period_start period_end
        allocated_amount used_amount reserved_amount unit auto_reset created_at updated_at
    """,
    "hub_instances": """
        uuid hub_type status vm_id version config parent_hub_uuid experiment_uuid spawned_at
        last_checkpoint_at terminated_at metadata
    """,
    "hub_checkpoints": """
        uuid hub_instance_uuid checkpoint_type proxmox_snapshot_id trigger_reason system_metrics
        active_machines_count active_projects_count size_gb verification_status created_at verified_at
        metadata
    """,
    "hub_experiments": """
        uuid experiment_name description base_checkpoint_uuid original_hub_uuid experimental_hub_uuid
        config_changes success_metrics performance_data status duration_days started_at completed_at
        results created_at metadata
    """,
}
EVENTS = "seq id project aggregate aggregate_id type version occurred_at recorded_at actor cause correlation body prev_hash hash"
VOCABULARIES: dict[tuple[str, str], type[StrEnum]] = {
    ("projects", "status"): words.ProjectStatus,
    ("intelligent_machines", "machine_type"): words.MachineType,
    ("intelligent_machines", "status"): words.MachineStatus,
    ("intelligent_machines", "phase"): words.Phase,
    ("intelligent_machines", "outcome"): words.Outcome,
    ("checkpoints", "checkpoint_type"): words.CheckpointType,
    ("checkpoints", "creation_context"): words.CreationContext,
    ("checkpoints", "verification_status"): words.VerificationStatus,
    ("resource_usage", "resource_type"): words.Resource,
    ("resource_usage", "unit"): words.Unit,
    ("resource_budgets", "scope"): words.BudgetScope,
    ("budget_reservations", "scope"): words.BudgetScope,
    ("resource_budgets", "resource_type"): words.Resource,
    ("resource_budgets", "unit"): words.Unit,
    ("resource_budgets", "budget_period"): words.BudgetPeriod,
    ("resource_budgets", "carry_over"): words.CarryOver,
    ("resource_budgets", "on_exhausted"): words.OnExhausted,
    ("credentials", "role"): words.Role,
    ("hub_instances", "hub_type"): words.HubType,
    ("hub_checkpoints", "verification_status"): words.VerificationStatus,
}
LATER: dict[tuple[str, str], set[str]] = {
    ("credentials", "kind"): set(get_args(CredentialKind)),
    ("hub_instances", "status"): {"active", "inactive", "experimental", "retiring"},
    ("hub_checkpoints", "checkpoint_type"): {"daily", "manual", "pre_experiment", "recovery", "pre_change"},
    ("hub_experiments", "status"): {"planned", "running", "completed", "failed"},
    ("hub_experiments", "results"): {"experimental_wins", "original_wins", "inconclusive"},
    ("budget_reservations", "resolution"): {"settled", "released"},
    ("projection", "state"): {"running", "halted"},
}
INDEXED = """
projects (greediness DESC) | projects (status) | intelligent_machines (status) | intelligent_machines (project_uuid
intelligent_machines (spawned_at DESC | intelligent_machines (machine_type | checkpoints (project_uuid
checkpoints (parent_checkpoint_uuid | checkpoints (created_at DESC | checkpoints (checkpoint_type
checkpoints (creating_machine_uuid | resource_usage (project_uuid, recorded_at | resource_usage (machine_uuid
resource_usage (resource_type | hub_instances (status | hub_checkpoints (hub_instance_uuid
hub_checkpoints (created_at DESC | hub_experiments (status | events (aggregate_id, seq | events (type, seq
events (project, seq | events (recorded_at
"""


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database) as made:
        yield made


@pytest_asyncio.fixture
async def migrated(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database that was migrated itself: a copy of one does not take over what belongs to the database's name."""
    name = f"own_{uuid4().hex}"
    await postgres.create_database(name)
    apply(postgres.dsn(name))
    yield postgres.dsn(name)
    await postgres.drop_database(name)


@pytest.fixture
def reader(migrated: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(migrated.replace("postgres@", "autovibe_reader@"), autocommit=True) as made:
        yield made


def test_every_table_has_the_columns_people_rely_on_and_the_event_that_last_changed_a_row(
    connection: psycopg.Connection,
) -> None:
    rows = connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    )
    found: dict[str, set[str]] = {}
    for table, column in rows:
        found.setdefault(table, set()).add(column)
    for table, columns in COLUMNS.items():
        assert {*columns.split(), "last_seq"} <= found[table], table
    assert set(EVENTS.split()) <= found["events"]


def test_every_index_that_reports_need_is_there(connection: psycopg.Connection) -> None:
    rows = connection.execute("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'").fetchall()
    definitions = "\n".join(re.sub(r" USING \w+", "", definition) for (definition,) in rows)
    for wanted in re.split(r"[|\n]", INDEXED):
        assert f"public.{wanted.strip()}" in definitions or not wanted.strip(), wanted


def test_the_words_that_columns_may_hold_are_those_of_the_contract(connection: psycopg.Connection) -> None:
    rows = connection.execute(
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
    ).fetchall()
    found: dict[tuple[str, str], set[str]] = {}
    for table, definition in rows:
        column = re.match(r"CHECK \(\((\w+) = ANY", definition)
        if column:
            found[table, column[1]] = set(re.findall(r"'([^']+)'::text", definition))
    wanted = {place: {word.value for word in vocabulary} for place, vocabulary in VOCABULARIES.items()}
    assert found == wanted | LATER


def test_migrations_are_applied_once_and_then_there_is_nothing_to_do(database: str) -> None:
    assert apply(database) == ()
    assert pending(database) == ()


async def test_an_empty_database_is_migrated_from_the_first_to_the_last(postgres: EmbeddedPostgres) -> None:
    await postgres.create_database("empty")
    dsn = postgres.dsn("empty")
    try:
        assert pending(dsn) == all_migrations()
        assert apply(dsn) == all_migrations()
        assert apply(dsn) == ()
    finally:
        await postgres.drop_database("empty")


def test_a_migration_that_was_changed_after_it_was_applied_is_refused(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE schema_migrations SET checksum = 'other' WHERE number = 2")
    with pytest.raises(MigrationError, match="never changed"):
        apply(database)


def test_a_database_of_a_newer_version_is_refused(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (9999, 'future', 'x')")
    with pytest.raises(MigrationError, match="newer version"):
        pending(database)


def test_a_role_that_may_not_migrate_is_told_what_it_needs(postgres: EmbeddedPostgres, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(
            "DELETE FROM schema_migrations WHERE number = 4; GRANT ALL ON schema_migrations TO autovibe_reader"
        )
        connection.execute("GRANT CREATE ON SCHEMA public TO autovibe_reader")
    with pytest.raises((MigrationError, errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)):
        apply(database.replace("postgres@", "autovibe_reader@"))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO projects DEFAULT VALUES",
        "UPDATE projection SET position = 0",
        "DELETE FROM events",
        "TRUNCATE events",
        "CREATE TABLE mine (x int)",
        "CREATE TEMPORARY TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "SELECT lo_create(0)",
        "SELECT pg_read_file('/etc/passwd')",
        "SET ROLE autovibe_projector",
        "SET temp_file_limit = -1",
    ],
)
def test_who_reads_can_do_nothing_else_even_after_lifting_its_own_limits(
    reader: psycopg.Connection, statement: str
) -> None:
    reader.execute("SET default_transaction_read_only = off")
    with pytest.raises((errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)):
        reader.execute(statement.encode())


def test_who_reads_is_limited_in_time_and_space_and_sees_every_table(migrated: str) -> None:
    with psycopg.connect(migrated) as admin:
        tables = [
            name for (name,) in admin.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        ]
    with psycopg.connect(migrated.replace("postgres@", "autovibe_reader@")) as reader:
        for table in tables:
            reader.execute(f"SELECT count(*) FROM {table}".encode())
        assert reader.execute("SHOW statement_timeout").fetchone() == ("15s",)
        assert reader.execute("SHOW temp_file_limit").fetchone() == ("256MB",)
        assert reader.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


def test_every_migration_says_why_and_what_it_locks() -> None:
    assert [migration.number for migration in all_migrations()] == list(range(1, len(all_migrations()) + 1))
    for migration in all_migrations():
        assert all(value for _, value in migration.header)
        assert dict(migration.header)["As"] in {"admin", "owner"}
        assert dict(migration.header)["Rebuilt"] in {"yes", "no"}
