-- Why: the copy of the log and what is folded from it; everything here can be made again from the log.
-- Locks: none, new.
-- Reversible: yes, DROP TABLE; the log refills them.
-- Backfill: by the projector, from the first event.
-- As: owner
-- Rebuilt: yes
--
-- The words in CHECKs are those of events/words.py (a test compares them). No other constraint than one that every
-- event there can ever be obeys: a violated one would stop the projector for ever.

CREATE TABLE events (
    seq            bigint      PRIMARY KEY,
    id             uuid        NOT NULL,
    project        text        NOT NULL,
    project_uuid   uuid        NOT NULL,
    aggregate      text        NOT NULL,
    aggregate_id   text        NOT NULL,
    aggregate_uuid uuid,
    type           text        NOT NULL,
    version        integer     NOT NULL,
    occurred_at    timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL,
    actor          text        NOT NULL,
    cause          uuid,
    correlation    uuid,
    reason         text        NOT NULL,
    body           jsonb       NOT NULL,
    prev_hash      bytea       NOT NULL,
    hash           bytea       NOT NULL
) WITH (autovacuum_vacuum_insert_scale_factor = 0.5);
CREATE INDEX events_by_id ON events (id);
CREATE INDEX events_by_aggregate ON events (aggregate_id, seq);
CREATE INDEX events_by_type ON events (type, seq);
CREATE INDEX events_by_project ON events (project, seq);
CREATE INDEX events_by_recorded_at ON events (recorded_at);
COMMENT ON COLUMN events.cause IS 'id of the event that this one answers';
COMMENT ON COLUMN events.aggregate_uuid IS 'aggregate_id as a uuid; of a project the project''s, null where it is no uuid';
COMMENT ON COLUMN events.hash IS 'link of the chain, how it is made: services/projector/chain.py';

CREATE TABLE projects (
    uuid                    uuid         PRIMARY KEY,
    name                    text         NOT NULL,
    description             text         NOT NULL,
    greediness              numeric(3,2) NOT NULL CHECK (greediness BETWEEN 0 AND 1),
    status                  text         NOT NULL CHECK (status IN ('active', 'paused', 'archived')),
    initial_checkpoint_uuid uuid,
    current_checkpoint_uuid uuid,
    checkpoint_policy       jsonb        NOT NULL,
    metadata                jsonb        NOT NULL,
    created_at              timestamptz  NOT NULL,
    updated_at              timestamptz  NOT NULL,
    last_seq                bigint       NOT NULL
);
CREATE UNIQUE INDEX projects_by_name ON projects (name);
CREATE INDEX projects_by_greediness ON projects (greediness DESC);
CREATE INDEX projects_by_status ON projects (status);
CREATE INDEX projects_by_created_at ON projects (created_at DESC, uuid DESC);

CREATE TABLE intelligent_machines (
    uuid                   uuid         PRIMARY KEY,
    project_uuid           uuid         NOT NULL,
    machine_type           text         NOT NULL CHECK (machine_type IN ('claude_code', 'aider', 'qwen_coder', 'hub', 'claude_api', 'shell')),
    status                 text         NOT NULL CHECK (status IN ('spawning', 'active', 'working', 'checkpointing', 'parked', 'terminated')),
    phase                  text         NOT NULL CHECK (phase IN ('requested', 'queued', 'provisioning', 'starting', 'ready', 'working', 'checkpointing', 'draining', 'sealing', 'parked', 'unreachable', 'recovering', 'quarantined', 'ending', 'ended')),
    outcome                text         CHECK (outcome IN ('succeeded', 'failed', 'cancelled', 'expired', 'denied', 'lost', 'superseded')),
    exit_code              integer,
    epoch                  integer      NOT NULL,
    hypervisor             text,
    node                   text,
    vm_id                  text,
    hub_vm_id              text,
    parent_checkpoint_uuid uuid,
    last_checkpoint_uuid   uuid,
    checkpoint_count       bigint       NOT NULL,
    original_prompt        text         NOT NULL,
    greediness             numeric(3,2) CHECK (greediness BETWEEN 0 AND 1),
    file_modifications     jsonb        NOT NULL,
    resource_constraints   jsonb        NOT NULL,
    resource_usage         jsonb        NOT NULL,
    holds                  jsonb        NOT NULL,
    current_progress       text,
    progress_percent       integer,
    error_message          text,
    metadata               jsonb        NOT NULL,
    spawned_at             timestamptz  NOT NULL,
    updated_at             timestamptz  NOT NULL,
    terminated_at          timestamptz,
    last_seq               bigint       NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX machines_by_status ON intelligent_machines (status);
CREATE INDEX machines_by_project ON intelligent_machines (project_uuid, spawned_at DESC, uuid DESC);
CREATE INDEX machines_by_spawned_at ON intelligent_machines (spawned_at DESC, uuid DESC);
CREATE INDEX machines_by_type ON intelligent_machines (machine_type);
COMMENT ON COLUMN intelligent_machines.spawned_at IS 'when its request was recorded';

CREATE TABLE checkpoints (
    uuid                   uuid          PRIMARY KEY,
    project_uuid           uuid          NOT NULL,
    parent_checkpoint_uuid uuid,
    creating_machine_uuid  uuid,
    creating_epoch         integer,
    checkpoint_type        text          NOT NULL CHECK (checkpoint_type IN ('genesis', 'automatic', 'manual', 'final', 'hub_daily', 'parking', 'safety')),
    creation_context       text          NOT NULL CHECK (creation_context IN ('initial_state', 'mid_execution', 'final_state', 'between_calls', 'before_risk', 'timer', 'requested')),
    proxmox_snapshot_id    text,
    vm_id                  text,
    snapshot               text          NOT NULL,
    file_manifest          jsonb         NOT NULL,
    description            text          NOT NULL,
    size_bytes             bigint        NOT NULL,
    stored_bytes           bigint        NOT NULL,
    compression_ratio      numeric(7,4),
    verification_status    text          NOT NULL CHECK (verification_status IN ('pending', 'verified', 'corrupt')),
    pinned                 boolean       NOT NULL,
    log_seq                bigint        NOT NULL,
    balance                jsonb         NOT NULL,
    metadata               jsonb         NOT NULL,
    created_at             timestamptz   NOT NULL,
    verified_at            timestamptz,
    purged_at              timestamptz,
    last_seq               bigint        NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX checkpoints_by_project ON checkpoints (project_uuid, created_at DESC, uuid DESC);
CREATE INDEX checkpoints_by_parent ON checkpoints (parent_checkpoint_uuid);
CREATE INDEX checkpoints_by_created_at ON checkpoints (created_at DESC, uuid DESC);
CREATE INDEX checkpoints_by_type ON checkpoints (checkpoint_type);
CREATE INDEX checkpoints_by_machine ON checkpoints (creating_machine_uuid);
COMMENT ON COLUMN checkpoints.snapshot IS 'digest of the manifest in the chunk store';
COMMENT ON COLUMN checkpoints.compression_ratio IS 'bytes read anew / bytes stored, at most 999.9999';

CREATE TABLE resource_usage (
    uuid                 uuid          NOT NULL,
    project_uuid         uuid          NOT NULL,
    machine_uuid         uuid          NOT NULL,
    epoch                integer       NOT NULL,
    resource_type        text          NOT NULL CHECK (resource_type IN ('money', 'time', 'api_calls', 'tokens', 'cpu', 'memory', 'storage', 'network')),
    resource_subtype     text          NOT NULL,
    amount               numeric(20,9) NOT NULL,
    unit                 text          NOT NULL CHECK (unit IN ('CAD', 'USD', 'minutes', 'hours', 'calls', 'tokens', 'gb', 'gb_hours', 'cpu_hours')),
    cost_cad             numeric(20,9) NOT NULL,
    cost                 numeric(20,9),
    currency             text          NOT NULL,
    billing_period_start timestamptz   NOT NULL,
    billing_period_end   timestamptz   NOT NULL,
    metadata             jsonb         NOT NULL,
    recorded_at          timestamptz   NOT NULL,
    last_seq             bigint        NOT NULL,
    PRIMARY KEY (uuid, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE INDEX usage_by_project ON resource_usage (project_uuid, recorded_at);
CREATE INDEX usage_by_recorded_at ON resource_usage (recorded_at DESC, uuid DESC);
CREATE INDEX usage_by_machine ON resource_usage (machine_uuid);
CREATE INDEX usage_by_resource_type ON resource_usage (resource_type);
COMMENT ON TABLE resource_usage IS 'one row per UsageRecorded; its partitions are made by the projector from the events'' times';

CREATE TABLE usage_totals (
    machine_uuid     uuid    NOT NULL,
    resource_type    text    NOT NULL,
    resource_subtype text    NOT NULL,
    unit             text    NOT NULL,
    project_uuid     uuid    NOT NULL,
    amount           numeric NOT NULL,
    cost_cad         numeric NOT NULL,
    records          bigint  NOT NULL,
    last_seq         bigint  NOT NULL,
    PRIMARY KEY (machine_uuid, resource_type, resource_subtype, unit)
) WITH (fillfactor = 80);
CREATE INDEX usage_totals_by_project ON usage_totals (project_uuid);

CREATE TABLE budget_reservations (
    reservation_uuid uuid        NOT NULL,
    node             text        NOT NULL,
    project_uuid     uuid        NOT NULL,
    scope            text        NOT NULL CHECK (scope IN ('hub', 'project', 'machine')),
    machine_uuid     uuid        NOT NULL,
    lines            jsonb       NOT NULL,
    resolution       text        CHECK (resolution IN ('settled', 'released')),
    reserved_at      timestamptz NOT NULL,
    resolved_at      timestamptz,
    reserved_seq     bigint      NOT NULL,
    resolved_seq     bigint,
    last_seq         bigint      NOT NULL,
    PRIMARY KEY (reservation_uuid, node, project_uuid)
) WITH (fillfactor = 80);
CREATE INDEX reservations_by_last_seq ON budget_reservations (last_seq);
CREATE INDEX reservations_by_machine ON budget_reservations (machine_uuid);

CREATE TABLE resource_budgets (
    uuid             uuid        PRIMARY KEY,
    scope            text        NOT NULL CHECK (scope IN ('hub', 'project', 'machine')),
    project_uuid     uuid        NOT NULL,
    machine_uuid     uuid,
    node             text        NOT NULL,
    resource_type    text        NOT NULL CHECK (resource_type IN ('money', 'time', 'api_calls', 'tokens', 'cpu', 'memory', 'storage', 'network')),
    unit             text        NOT NULL CHECK (unit IN ('CAD', 'USD', 'minutes', 'hours', 'calls', 'tokens', 'gb', 'gb_hours', 'cpu_hours')),
    budget_period    text        NOT NULL CHECK (budget_period IN ('daily', 'weekly', 'monthly', 'total')),
    period_start     timestamptz NOT NULL,
    period_end       timestamptz,
    time_zone        text        NOT NULL,
    auto_reset       boolean     NOT NULL,
    allocated_amount numeric(20,9),
    used_amount      numeric(38,9) NOT NULL,
    reserved_amount  numeric(38,9) NOT NULL,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    last_seq         bigint      NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX budgets_by_project ON resource_budgets (project_uuid, node, resource_type, period_start DESC);
CREATE INDEX budgets_by_created_at ON resource_budgets (created_at DESC, uuid DESC);
CREATE INDEX budgets_by_machine ON resource_budgets (machine_uuid);
COMMENT ON COLUMN resource_budgets.allocated_amount IS 'null: no cap of its own, only what was reserved and used is counted';
COMMENT ON COLUMN resource_budgets.used_amount IS 'wider than its parts, so that no sum of them can overflow';
COMMENT ON COLUMN resource_budgets.uuid IS 'made of account, resource, period and its start';

CREATE TABLE credentials (
    uuid          uuid        PRIMARY KEY,
    project_uuid  uuid        NOT NULL,
    kind          text        NOT NULL CHECK (kind IN ('client', 'machine', 'api_key', 'operator')),
    name          text        NOT NULL,
    role          text        NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    projects      jsonb       NOT NULL,
    public_key    text,
    machine_uuid  uuid,
    epoch         integer,
    issued_at     timestamptz NOT NULL,
    expires_at    timestamptz,
    revoked_at    timestamptz,
    revoke_reason text,
    last_seq      bigint      NOT NULL
);
CREATE INDEX credentials_by_issued_at ON credentials (issued_at DESC, uuid DESC);
CREATE INDEX credentials_by_machine ON credentials (machine_uuid);
