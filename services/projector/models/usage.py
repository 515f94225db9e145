"""`resource_usage`: one row per UsageRecorded; `usage_totals`: their sums by machine, which machines and reports read."""

from typing import Final, LiteralString

from services.projector.models.base import RANGE, Model

_TYPES: Final = frozenset({"UsageRecorded"})

_USAGE: Final[LiteralString] = f"""
INSERT INTO resource_usage (uuid, project_uuid, machine_uuid, epoch, resource_type, resource_subtype, amount, unit,
                            cost_cad, cost, currency, billing_period_start, billing_period_end, metadata, recorded_at,
                            last_seq)
SELECT e.id,
       e.project_uuid,
       e.aggregate_uuid,
       (e.body->>'epoch')::integer,
       e.body->>'resource_type',
       e.body->>'resource_subtype',
       (e.body->>'amount')::numeric,
       e.body->>'unit',
       (e.body->>'cost_cad')::numeric,
       (e.body->>'cost')::numeric,
       COALESCE(e.body->>'currency', 'CAD'),
       (e.body->>'period_start')::timestamptz,
       (e.body->>'period_end')::timestamptz,
       COALESCE(e.body->'metadata', '{{}}'),
       e.recorded_at,
       e.seq
  FROM events e
 WHERE {RANGE}
   AND e.type = 'UsageRecorded'
 ORDER BY e.seq
ON CONFLICT (uuid, recorded_at) DO NOTHING
"""

_TOTALS: Final[LiteralString] = f"""
INSERT INTO usage_totals AS t (machine_uuid, resource_type, resource_subtype, unit, project_uuid, amount, cost_cad,
                               records, last_seq)
SELECT e.aggregate_uuid,
       e.body->>'resource_type',
       e.body->>'resource_subtype',
       e.body->>'unit',
       (array_agg(e.project_uuid ORDER BY e.seq))[1],
       sum((e.body->>'amount')::numeric),
       sum((e.body->>'cost_cad')::numeric),
       count(*),
       max(e.seq)
  FROM events e
 WHERE {RANGE}
   AND e.type = 'UsageRecorded'
 GROUP BY 1, 2, 3, 4
ON CONFLICT (machine_uuid, resource_type, resource_subtype, unit) DO UPDATE
   SET amount = t.amount + excluded.amount,
       cost_cad = t.cost_cad + excluded.cost_cad,
       records = t.records + excluded.records,
       last_seq = excluded.last_seq
"""

USAGE: Final = Model("resource_usage", "uuid, recorded_at", _TYPES, _USAGE)
TOTALS: Final = Model("usage_totals", "machine_uuid, resource_type, resource_subtype, unit", _TYPES, _TOTALS)
