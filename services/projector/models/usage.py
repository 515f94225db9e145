"""`resource_usage`: what UsageRecorded says, and what model calls come to; `usage_totals`: their sums by machine.

A settled call is one row of `api_calls` with its whole cost and one row per class of tokens, which costs nothing more. A
correction adds rows with the difference, so every row stays as it was written and the sums are right.
"""

from typing import Final, LiteralString

from services.projector.models.base import RANGE, Model, words

CALLS: Final = ("CallSettled", "CallCorrected")
_TYPES: Final = frozenset({"UsageRecorded", *CALLS})
_CLASSES: Final = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
_AMOUNT_MAX: LiteralString = "99999999999"
"""More tokens than a NUMERIC(20,9) can hold are no tokens."""

_VALUES: Final[LiteralString] = ", ".join([f"('{name}')" for name in _CLASSES])

_CALLS: Final[LiteralString] = f"""
    SELECT e.id, e.seq, e.type, e.project_uuid, e.aggregate_uuid AS machine_uuid, e.recorded_at, e.body,
           CASE e.type WHEN 'CallSettled' THEN e.body ELSE o.first END AS settled,
           CASE e.type WHEN 'CallSettled' THEN '{{}}' ELSE o.last END AS before,
           CASE e.type WHEN 'CallSettled' THEN (e.body->>'began_at')::timestamptz ELSE e.occurred_at END AS began_at,
           CASE e.type WHEN 'CallSettled' THEN (e.body->>'ended_at')::timestamptz ELSE e.occurred_at END AS ended_at
      FROM events e
      LEFT JOIN LATERAL (
               -- What the call was said to be before; a correction of a call that nobody settled corrects nothing.
               SELECT (array_agg(p.body ORDER BY p.seq DESC))[1] AS last,
                      (array_agg(p.body ORDER BY p.seq) FILTER (WHERE p.type = 'CallSettled'))[1] AS first
                 FROM events p
                WHERE e.type = 'CallCorrected'
                  AND p.aggregate_id = e.aggregate_id
                  AND p.project = e.project
                  AND p.seq < e.seq
                  AND p.type IN ({words(CALLS)})
                  AND p.body->>'call_id' = e.body->>'call_id'
           ) o ON true
     WHERE {RANGE}
       AND e.type IN ({words(CALLS)})
       AND e.aggregate_id <> e.project
"""

_ROWS: Final[LiteralString] = f"""
    WITH calls AS ({_CALLS})
    SELECT e.id AS uuid, e.seq, e.project_uuid, e.aggregate_uuid AS machine_uuid, (e.body->>'epoch')::integer AS epoch,
           e.body->>'resource_type' AS resource_type, e.body->>'resource_subtype' AS resource_subtype,
           (e.body->>'amount')::numeric AS amount, e.body->>'unit' AS unit, (e.body->>'cost_cad')::numeric AS cost_cad,
           (e.body->>'cost')::numeric AS cost, COALESCE(e.body->>'currency', 'CAD') AS currency,
           (e.body->>'period_start')::timestamptz AS began_at, (e.body->>'period_end')::timestamptz AS ended_at,
           COALESCE(e.body->'metadata', '{{}}') AS metadata, e.recorded_at
      FROM events e
     WHERE {RANGE}
       AND e.type = 'UsageRecorded'
     UNION ALL
    SELECT c.id, c.seq, c.project_uuid, c.machine_uuid, (c.settled->>'epoch')::integer,
           'api_calls', COALESCE(c.settled->>'machine_type', c.settled->>'provider'),
           CASE c.type WHEN 'CallSettled' THEN 1 ELSE 0 END, 'calls',
           (c.body->>'cost_cad')::numeric - COALESCE((c.before->>'cost_cad')::numeric, 0),
           (c.body->>'cost')::numeric, COALESCE(c.body->>'currency', 'CAD'), c.began_at, c.ended_at,
           jsonb_strip_nulls(jsonb_build_object(
               'call_id', c.body->'call_id', 'model', c.settled->'model', 'provider', c.settled->'provider',
               'stop_reason', c.settled->'stop_reason', 'estimated', c.settled->'estimated',
               'price_id', c.settled->'price_id', 'server_tools', c.settled->'server_tools',
               'corrected', CASE c.type WHEN 'CallCorrected' THEN c.body->'reason' END)),
           c.recorded_at
      FROM calls c
     WHERE c.settled IS NOT NULL
     UNION ALL
    SELECT md5(concat_ws('/', c.id, k.class))::uuid, c.seq, c.project_uuid, c.machine_uuid,
           (c.settled->>'epoch')::integer, 'tokens', k.class, t.amount, 'tokens', 0, NULL, 'CAD', c.began_at, c.ended_at,
           jsonb_build_object('call_id', c.body->'call_id', 'model', c.settled->'model',
                              'provider', c.settled->'provider'),
           c.recorded_at
      FROM calls c
     CROSS JOIN (VALUES {_VALUES}) k (class)
     CROSS JOIN LATERAL (
               SELECT LEAST(COALESCE((c.body->'tokens'->>k.class)::numeric, 0), {_AMOUNT_MAX})
                      - LEAST(COALESCE((c.before->'tokens'->>k.class)::numeric, 0), {_AMOUNT_MAX}) AS amount
           ) t
     WHERE c.settled IS NOT NULL
       AND t.amount <> 0
"""

_USAGE: Final[LiteralString] = f"""
INSERT INTO resource_usage (uuid, project_uuid, machine_uuid, epoch, resource_type, resource_subtype, amount, unit,
                            cost_cad, cost, currency, billing_period_start, billing_period_end, metadata, recorded_at,
                            last_seq)
SELECT r.uuid,
       r.project_uuid,
       r.machine_uuid,
       r.epoch,
       r.resource_type,
       r.resource_subtype,
       r.amount,
       r.unit,
       r.cost_cad,
       r.cost,
       r.currency,
       r.began_at,
       r.ended_at,
       r.metadata,
       r.recorded_at,
       r.seq
  FROM ({_ROWS}) r
 ORDER BY r.seq
ON CONFLICT (uuid, recorded_at) DO NOTHING
"""

_TOTALS: Final[LiteralString] = f"""
INSERT INTO usage_totals AS t (machine_uuid, resource_type, resource_subtype, unit, project_uuid, amount, cost_cad,
                               records, last_seq)
SELECT r.machine_uuid,
       r.resource_type,
       r.resource_subtype,
       r.unit,
       (array_agg(r.project_uuid ORDER BY r.seq))[1],
       sum(r.amount),
       sum(r.cost_cad),
       count(*),
       max(r.seq)
  FROM ({_ROWS}) r
 GROUP BY 1, 2, 3, 4
ON CONFLICT (machine_uuid, resource_type, resource_subtype, unit) DO UPDATE
   SET amount = t.amount + excluded.amount,
       cost_cad = t.cost_cad + excluded.cost_cad,
       records = t.records + excluded.records,
       last_seq = excluded.last_seq
"""

USAGE: Final = Model("resource_usage", "uuid, recorded_at", _TYPES, _USAGE)
TOTALS: Final = Model("usage_totals", "machine_uuid, resource_type, resource_subtype, unit", _TYPES, _TOTALS)
