-- Why: model calls as use, reservations that grow and are drawn, what an account warns of and carries over, why a
--      machine is held.
-- Locks: ACCESS EXCLUSIVE on resource_budgets and intelligent_machines for an instant (columns with constant defaults).
-- Reversible: yes, DROP TABLE and DROP COLUMN; the log refills them.
-- Backfill: the lines of reservations that are there; everything else begins with events that are new.
-- As: owner
-- Rebuilt: yes

CREATE TABLE budget_reservation_lines (
    reservation_uuid uuid           NOT NULL,
    node             text           NOT NULL,
    project_uuid     uuid           NOT NULL,
    resource_type    text           NOT NULL,
    budget_period    text           NOT NULL,
    period_start     timestamptz    NOT NULL,
    held_amount      numeric        NOT NULL,
    last_seq         bigint         NOT NULL,
    PRIMARY KEY (reservation_uuid, node, project_uuid, resource_type, budget_period, period_start)
) WITH (fillfactor = 80);
COMMENT ON TABLE budget_reservation_lines IS 'what a reservation holds: its lines, and what extended them, less what was drawn; at the end, what its resolution gives back';

INSERT INTO budget_reservation_lines
SELECT r.reservation_uuid, r.node, r.project_uuid, l.resource, l.period, l.period_start, sum(l.amount), r.reserved_seq
  FROM budget_reservations r
 CROSS JOIN LATERAL jsonb_to_recordset(r.lines) AS l (resource text, amount numeric, period text, period_start timestamptz)
 GROUP BY 1, 2, 3, 4, 5, 6, 8;

ALTER TABLE resource_budgets
    ADD COLUMN soft_amount  numeric(20,9),
    ADD COLUMN base_amount  numeric(20,9),
    ADD COLUMN thresholds   jsonb NOT NULL DEFAULT '[50, 80, 95, 100]',
    ADD COLUMN carry_over   text  NOT NULL DEFAULT 'none' CHECK (carry_over IN ('none', 'unused', 'debt')),
    ADD COLUMN on_exhausted text  NOT NULL DEFAULT 'park' CHECK (on_exhausted IN ('hold', 'refuse', 'park'));
COMMENT ON COLUMN resource_budgets.base_amount IS 'what every period is given; allocated_amount has what was carried over or added too';

ALTER TABLE intelligent_machines
    ADD COLUMN hold_reason text,
    ADD COLUMN held_until  timestamptz;
COMMENT ON COLUMN intelligent_machines.hold_reason IS 'why it is held or parked; null: it is not';
