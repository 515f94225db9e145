-- Why: what a project's machines are unless their request says otherwise, and the model that a machine uses.
-- Locks: ACCESS EXCLUSIVE on projects and intelligent_machines for an instant (columns with constant defaults).
-- Reversible: yes, DROP COLUMN; the log refills them.
-- Backfill: none; no event before this said any of it.
-- As: owner
-- Rebuilt: yes

ALTER TABLE projects
    ADD COLUMN agent_policy jsonb NOT NULL DEFAULT '{}';

ALTER TABLE intelligent_machines
    ADD COLUMN model text;
