"""`budget_reservations`: what is or was set aside, `budget_reservation_lines`: how much of it each holds;
`resource_budgets`: one row per account, resource and period.

A resolution names only its reservation, so what it gives back is looked up among the lines. A line is what the
reservation held first, with what extended it and less what was drawn, until it was resolved.
"""

from typing import Final, LiteralString

from events.budget import UNIT_OF
from services.projector.models.base import RANGE, Model, case

_RESERVATION_TYPES: Final = ("BudgetReserved", "BudgetSettled", "BudgetReleased")
_CHANGING: Final = ("BudgetExtended", "BudgetDrawn")
_UNITS: Final = case(UNIT_OF.items())
_SCOPE: Final[LiteralString] = """CASE
               WHEN e.aggregate_id <> e.project THEN 'machine'
               WHEN e.project = '_hub' THEN 'hub'
               ELSE 'project'
           END"""
_LINES: Final[LiteralString] = "(resource text, amount numeric, period text, period_start timestamptz)"

_RESERVATIONS: Final[LiteralString] = f"""
WITH heard AS (
    SELECT e.seq, e.recorded_at, e.project_uuid, e.aggregate_id AS node, {_SCOPE} AS scope, e.body,
           (e.body->>'reservation_id')::uuid AS reservation,
           CASE e.type WHEN 'BudgetSettled' THEN 'settled' WHEN 'BudgetReleased' THEN 'released' END AS resolution
      FROM events e
     WHERE {RANGE}
       AND e.type IN ('BudgetReserved', 'BudgetSettled', 'BudgetReleased')
), placed AS (
    -- Windows instead of joins of the stretch with itself: the planner would nest them, 5,000 times 5,000.
    SELECT h.*, r.reservation_uuid IS NOT NULL AS known,
           min(h.seq) FILTER (WHERE h.resolution IS NULL)
                       OVER (PARTITION BY h.reservation, h.node, h.project_uuid) AS born
      FROM heard h
      LEFT JOIN budget_reservations r
        ON r.reservation_uuid = h.reservation
       AND r.node = h.node
       AND r.project_uuid = h.project_uuid
), folded AS (
    SELECT reservation, node, project_uuid,
           bool_or(known) AS known,
           min(scope) AS scope,
           min(born) AS reserved_seq,
           (array_agg(body) FILTER (WHERE resolution IS NULL))[1] AS reserved,
           min(recorded_at) FILTER (WHERE resolution IS NULL) AS reserved_at,
           (array_agg(resolution ORDER BY seq) FILTER (WHERE resolution IS NOT NULL))[1] AS resolution,
           (array_agg(recorded_at ORDER BY seq) FILTER (WHERE resolution IS NOT NULL))[1] AS resolved_at,
           min(seq) FILTER (WHERE resolution IS NOT NULL) AS resolved_seq
      FROM placed
     WHERE CASE
               WHEN known THEN resolution IS NOT NULL
               WHEN resolution IS NULL THEN seq = born
               ELSE seq > born
           END
     GROUP BY reservation, node, project_uuid
), changed AS (
    UPDATE budget_reservations r
       SET resolution = f.resolution,
           resolved_at = f.resolved_at,
           resolved_seq = f.resolved_seq,
           last_seq = f.resolved_seq
      FROM folded f
     WHERE r.reservation_uuid = f.reservation
       AND r.node = f.node
       AND r.project_uuid = f.project_uuid
       AND r.resolved_seq IS NULL
       AND f.known
)
INSERT INTO budget_reservations (reservation_uuid, node, project_uuid, scope, machine_uuid, lines, resolution,
                                 reserved_at, resolved_at, reserved_seq, resolved_seq, last_seq)
SELECT reservation,
       node,
       project_uuid,
       scope,
       (reserved->>'machine_id')::uuid,
       reserved->'lines',
       resolution,
       reserved_at,
       resolved_at,
       reserved_seq,
       resolved_seq,
       COALESCE(resolved_seq, reserved_seq)
  FROM folded
 WHERE NOT known
"""

_CHANGES: Final[LiteralString] = f"""
    SELECT e.seq, e.project_uuid, e.aggregate_id AS node, (e.body->>'reservation_id')::uuid AS reservation,
           l.resource, l.period, l.period_start,
           CASE e.type WHEN 'BudgetDrawn' THEN -l.amount ELSE l.amount END AS amount
      FROM events e
     CROSS JOIN LATERAL jsonb_to_recordset(e.body->'lines') AS l {_LINES}
      JOIN budget_reservations r
        ON r.reservation_uuid = (e.body->>'reservation_id')::uuid
       AND r.node = e.aggregate_id
       AND r.project_uuid = e.project_uuid
       AND e.seq > r.reserved_seq
       AND e.seq < COALESCE(r.resolved_seq, e.seq + 1)
     WHERE {RANGE}
       AND e.type IN ('BudgetExtended', 'BudgetDrawn')
"""
"""What changed the lines of reservations that were open then."""

_HELD: Final[LiteralString] = f"""
INSERT INTO budget_reservation_lines AS h (reservation_uuid, node, project_uuid, resource_type, budget_period,
                                           period_start, held_amount, last_seq)
SELECT c.reservation, c.node, c.project_uuid, c.resource, c.period, c.period_start, sum(c.amount), max(c.seq)
  FROM (
    SELECT r.reservation_uuid AS reservation, r.node, r.project_uuid, l.resource, l.period, l.period_start, l.amount,
           r.reserved_seq AS seq
      FROM budget_reservations r
     CROSS JOIN LATERAL jsonb_to_recordset(r.lines) AS l {_LINES}
     WHERE r.last_seq > %(after)s
       AND r.last_seq <= %(upto)s
       AND r.reserved_seq > %(after)s
     UNION ALL
    SELECT x.reservation, x.node, x.project_uuid, x.resource, x.period, x.period_start, x.amount, x.seq
      FROM ({_CHANGES}) x
  ) c
 GROUP BY 1, 2, 3, 4, 5, 6
ON CONFLICT (reservation_uuid, node, project_uuid, resource_type, budget_period, period_start) DO UPDATE
   SET held_amount = h.held_amount + excluded.held_amount,
       last_seq = excluded.last_seq
"""

_BUDGETS: Final[LiteralString] = f"""
WITH moves AS (
    SELECT e.seq, true AS allocates, e.project_uuid, e.aggregate_id AS node, {_SCOPE} AS scope,
           e.body->>'resource' AS resource, e.body->>'period' AS period,
           (e.body->>'period_start')::timestamptz AS period_start, 0::numeric AS reserved, 0::numeric AS used
      FROM events e
     WHERE {RANGE}
       AND e.type = 'BudgetAllocated'
     UNION ALL
    SELECT e.seq, false, e.project_uuid, e.aggregate_id, {_SCOPE}, l.resource, l.period, l.period_start, 0, l.amount
      FROM events e
     CROSS JOIN LATERAL jsonb_to_recordset(e.body->'lines') AS l {_LINES}
     WHERE {RANGE}
       AND e.type IN ('BudgetSettled', 'BudgetDrawn')
     UNION ALL
    SELECT r.reserved_seq, false, r.project_uuid, r.node, r.scope, l.resource, l.period, l.period_start, l.amount, 0
      FROM budget_reservations r
     CROSS JOIN LATERAL jsonb_to_recordset(r.lines) AS l {_LINES}
     WHERE r.last_seq > %(after)s
       AND r.last_seq <= %(upto)s
       AND r.reserved_seq > %(after)s
     UNION ALL
    SELECT x.seq, false, x.project_uuid, x.node, s.scope, x.resource,
           x.period, x.period_start, x.amount, 0
      FROM ({_CHANGES}) x
      JOIN budget_reservations s
        ON s.reservation_uuid = x.reservation
       AND s.node = x.node
       AND s.project_uuid = x.project_uuid
     UNION ALL
    SELECT r.resolved_seq, false, r.project_uuid, r.node, r.scope, h.resource_type, h.budget_period, h.period_start,
           -h.held_amount, 0
      FROM budget_reservations r
      JOIN budget_reservation_lines h
        ON h.reservation_uuid = r.reservation_uuid
       AND h.node = r.node
       AND h.project_uuid = r.project_uuid
     WHERE r.last_seq > %(after)s
       AND r.last_seq <= %(upto)s
       AND r.resolved_seq > %(after)s
), summed AS (
    -- No aggregate of a row's first or last: those would have everything sorted, by six columns.
    SELECT project_uuid, node, scope, resource, period, period_start,
           max(seq) FILTER (WHERE allocates) AS allocated_seq,
           sum(reserved) AS reserved,
           sum(used) AS used,
           min(seq) AS first_seq,
           max(seq) AS last_seq
      FROM moves
     GROUP BY 1, 2, 3, 4, 5, 6
), folded AS (
    SELECT s.*,
           (SELECT e.body FROM events e WHERE e.seq = s.allocated_seq) AS allocation,
           (SELECT e.recorded_at FROM events e WHERE e.seq = s.first_seq) AS created_at,
           (SELECT e.recorded_at FROM events e WHERE e.seq = s.last_seq) AS updated_at
      FROM summed s
    OFFSET 0
)
INSERT INTO resource_budgets AS b (uuid, scope, project_uuid, machine_uuid, node, resource_type, unit, budget_period,
                                   period_start, period_end, time_zone, auto_reset, allocated_amount, soft_amount,
                                   base_amount, thresholds, carry_over, on_exhausted, used_amount, reserved_amount,
                                   created_at, updated_at, last_seq)
SELECT md5(concat_ws('/', project_uuid, node, resource, period, extract(epoch FROM period_start)))::uuid,
       scope,
       project_uuid,
       CASE scope WHEN 'machine' THEN node::uuid END,
       node,
       resource,
       COALESCE(allocation->>'unit', CASE resource {_UNITS} END),
       period,
       period_start,
       (allocation->>'period_end')::timestamptz,
       COALESCE(allocation->>'time_zone', 'UTC'),
       COALESCE((allocation->>'auto_reset')::boolean, true),
       (allocation->>'amount')::numeric,
       (allocation->>'soft')::numeric,
       (allocation->>'base_amount')::numeric,
       COALESCE(allocation->'thresholds', '[50, 80, 95, 100]'),
       COALESCE(allocation->>'carry', 'none'),
       COALESCE(allocation->>'on_exhausted', 'park'),
       used,
       reserved,
       created_at,
       updated_at,
       last_seq
  FROM folded
ON CONFLICT (uuid) DO UPDATE
   SET unit = CASE WHEN excluded.allocated_amount IS NULL THEN b.unit ELSE excluded.unit END,
       period_end = CASE WHEN excluded.allocated_amount IS NULL THEN b.period_end ELSE excluded.period_end END,
       time_zone = CASE WHEN excluded.allocated_amount IS NULL THEN b.time_zone ELSE excluded.time_zone END,
       auto_reset = CASE WHEN excluded.allocated_amount IS NULL THEN b.auto_reset ELSE excluded.auto_reset END,
       soft_amount = CASE WHEN excluded.allocated_amount IS NULL THEN b.soft_amount ELSE excluded.soft_amount END,
       base_amount = CASE WHEN excluded.allocated_amount IS NULL THEN b.base_amount ELSE excluded.base_amount END,
       thresholds = CASE WHEN excluded.allocated_amount IS NULL THEN b.thresholds ELSE excluded.thresholds END,
       carry_over = CASE WHEN excluded.allocated_amount IS NULL THEN b.carry_over ELSE excluded.carry_over END,
       on_exhausted = CASE WHEN excluded.allocated_amount IS NULL THEN b.on_exhausted ELSE excluded.on_exhausted END,
       allocated_amount = COALESCE(excluded.allocated_amount, b.allocated_amount),
       used_amount = b.used_amount + excluded.used_amount,
       reserved_amount = b.reserved_amount + excluded.reserved_amount,
       updated_at = excluded.updated_at,
       last_seq = excluded.last_seq
"""

RESERVATIONS: Final = Model(
    "budget_reservations",
    "reservation_uuid, node, project_uuid",
    frozenset(_RESERVATION_TYPES),
    _RESERVATIONS,
)
LINES: Final = Model(
    "budget_reservation_lines",
    "reservation_uuid, node, project_uuid, resource_type, budget_period, period_start",
    frozenset({*_RESERVATION_TYPES, *_CHANGING}),
    _HELD,
)
BUDGETS: Final = Model(
    "resource_budgets", "uuid", frozenset({*_RESERVATION_TYPES, *_CHANGING, "BudgetAllocated"}), _BUDGETS
)
