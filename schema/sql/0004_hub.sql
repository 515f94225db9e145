-- Why: the hub as a machine of its own: its instances, checkpoints and experiments.
-- Locks: none, new.
-- Reversible: yes, DROP TABLE; the log refills them.
-- Backfill: by the projector, from the first event.
-- As: owner
-- Rebuilt: yes

CREATE TABLE hub_instances (
    uuid               uuid        PRIMARY KEY,
    hub_type           text        NOT NULL CHECK (hub_type IN ('primary', 'development', 'experimental', 'domain_specific')),
    status             text        NOT NULL CHECK (status IN ('active', 'inactive', 'experimental', 'retiring')),
    name               text        NOT NULL,
    vm_id              text,
    version            text        NOT NULL,
    config             jsonb       NOT NULL,
    parent_hub_uuid    uuid,
    experiment_uuid    uuid,
    spawned_at         timestamptz NOT NULL,
    started_at         timestamptz,
    last_checkpoint_at timestamptz,
    terminated_at      timestamptz,
    metadata           jsonb       NOT NULL,
    last_seq           bigint      NOT NULL
);
CREATE INDEX hub_instances_by_status ON hub_instances (status);

CREATE TABLE hub_checkpoints (
    uuid                  uuid        PRIMARY KEY,
    hub_instance_uuid     uuid        NOT NULL,
    checkpoint_type       text        NOT NULL CHECK (checkpoint_type IN ('daily', 'manual', 'pre_experiment', 'recovery', 'pre_change')),
    proxmox_snapshot_id   text,
    trigger_reason        text        NOT NULL,
    system_metrics        jsonb       NOT NULL,
    active_machines_count integer     NOT NULL,
    active_projects_count integer     NOT NULL,
    size_gb               numeric(20,9),
    verification_status   text        NOT NULL CHECK (verification_status IN ('pending', 'verified', 'corrupt')),
    created_at            timestamptz NOT NULL,
    verified_at           timestamptz,
    metadata              jsonb       NOT NULL,
    last_seq              bigint      NOT NULL
);
CREATE INDEX hub_checkpoints_by_hub ON hub_checkpoints (hub_instance_uuid);
CREATE INDEX hub_checkpoints_by_created_at ON hub_checkpoints (created_at DESC);
COMMENT ON COLUMN hub_checkpoints.proxmox_snapshot_id IS 'null where the hub is no Proxmox VM';

CREATE TABLE hub_experiments (
    uuid                  uuid        PRIMARY KEY,
    experiment_name       text        NOT NULL,
    description           text        NOT NULL,
    base_checkpoint_uuid  uuid,
    original_hub_uuid     uuid,
    experimental_hub_uuid uuid,
    config_changes        jsonb       NOT NULL,
    success_metrics       jsonb       NOT NULL,
    performance_data      jsonb       NOT NULL,
    status                text        NOT NULL CHECK (status IN ('planned', 'running', 'completed', 'failed')),
    duration_days         integer     NOT NULL DEFAULT 14,
    started_at            timestamptz,
    completed_at          timestamptz,
    results               text        CHECK (results IN ('experimental_wins', 'original_wins', 'inconclusive')),
    created_at            timestamptz NOT NULL,
    metadata              jsonb       NOT NULL,
    last_seq              bigint      NOT NULL
);
CREATE INDEX hub_experiments_by_status ON hub_experiments (status);
