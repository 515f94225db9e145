-- Why: how far the tables have come, which log they come from, who may move them on, and why they stopped.
-- Locks: none, new.
-- Reversible: yes, DROP TABLE projection; everything is projected again from the first event.
-- Backfill: none.
-- As: owner
-- Rebuilt: no

-- Tables that come later, rebuilt ones too, can be read by those who report.
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO autovibe_reader;

CREATE TABLE projection (
    name           text        PRIMARY KEY,
    position       bigint      NOT NULL DEFAULT 0 CHECK (position >= 0),
    hash           bytea       NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (length(hash) = 32),
    stream         text        NOT NULL DEFAULT 'LOG',
    stream_created timestamptz,
    epoch          bigint      NOT NULL DEFAULT 0,
    state          text        NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'halted')),
    halted_reason  text,
    recorded_at    timestamptz,
    updated_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

COMMENT ON COLUMN projection.position IS 'seq of the last event that the tables hold';
COMMENT ON COLUMN projection.hash IS 'hash of that event: the head of the chain';
COMMENT ON COLUMN projection.epoch IS 'who took over last; a writer of an older epoch is fenced';
COMMENT ON COLUMN projection.recorded_at IS 'when the log recorded that event';

INSERT INTO projection (name) VALUES ('live');
