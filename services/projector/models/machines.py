"""`intelligent_machines`: one row per machine, whatever becomes of it.

Which phase an event puts a machine in is said by the event classes, which status reports it by `events.words`: the
CASEs are made from both.
"""

from typing import Final, LiteralString

from events.machine import MachineEvent
from events.registry import EVENTS
from events.words import STATUS_OF_PHASE, Hold
from services.projector.models.base import Model, case, counted, first, last, rows, words
from services.projector.models.usage import CALLS

_PHASES: Final = {
    name: event.phase.value
    for name, event in EVENTS.items()
    if issubclass(event, MachineEvent) and event.phase is not None
}
_USED: Final = ("UsageRecorded", *CALLS)
_TYPES: Final = (
    *(name for name, event in EVENTS.items() if issubclass(event, MachineEvent)),
    "CheckpointTaken",
    *CALLS,
)

_HOLDING: Final = (
    "MachineHeld",
    "MachineParked",
    "MachineResumed",
    "MachineQueued",
    "MachineAdmitted",
    "MachineEnded",
    "MachineDenied",
)

_ALSO: Final[LiteralString] = f""",
               CASE e.type {case(_PHASES.items())} END AS phase,
               e.type IN ({words(_HOLDING)}) AS holding"""
_STATUS: Final = case(STATUS_OF_PHASE.items())
_HOLDS: Final = rows(Hold)
_KEY: Final[LiteralString] = (
    "CASE e.type WHEN 'CheckpointTaken' THEN (e.body->>'machine_id')::uuid ELSE e.aggregate_uuid END"
)

_ERROR: Final[LiteralString] = "CASE body->>'outcome' WHEN 'succeeded' THEN '' ELSE COALESCE(body->>'reason', '') END"


_EXPLAINED: Final = (
    "MachineHeld",
    "MachineParked",
    "MachineResumed",
    "MachineAdmitted",
    "MachineEnded",
    "MachineDenied",
)
_STANDS: Final[LiteralString] = (
    "CASE WHEN type IN ('MachineHeld', 'MachineParked') THEN COALESCE(body->>'{}', '') ELSE '' END"
)
# Empty: nothing holds it any more.
_HOLD_REASON: Final[LiteralString] = _STANDS.replace("{}", "reason")
_HELD_UNTIL: Final[LiteralString] = _STANDS.replace("{}", "until")


def _moved(hold: Hold) -> LiteralString:
    """Return whether the last event that has to do with this hold sets it or takes it away; null: there is none."""
    name = words([hold])
    queue: LiteralString = "false" if hold in {Hold.BUDGET, Hold.CAPACITY} else "NULL"
    value: LiteralString = f"""CASE type
               WHEN 'MachineHeld' THEN CASE body->>'hold' WHEN {name} THEN true END
               WHEN 'MachineParked' THEN CASE body->>'hold' WHEN {name} THEN true END
               WHEN 'MachineResumed' THEN CASE body->>'hold' WHEN {name} THEN false END
               WHEN 'MachineQueued' THEN CASE body->>'hold' WHEN {name} THEN true ELSE {queue} END
               WHEN 'MachineAdmitted' THEN {queue}
               ELSE false
           END"""
    return f"{name}, (array_agg({value} ORDER BY seq DESC) FILTER (WHERE holding AND {value} IS NOT NULL))[1]"


_MOVED: Final[LiteralString] = ", ".join([_moved(hold) for hold in Hold])
_USAGE: Final[LiteralString] = """COALESCE((
               SELECT jsonb_object_agg(r.resource_type, r.amounts || jsonb_build_object('cost_cad', trim_scale(r.cost_cad)::text))
                      || jsonb_build_object('cost_cad', trim_scale(sum(r.cost_cad))::text)
                 FROM (
                     SELECT u.resource_type, sum(u.cost_cad) AS cost_cad,
                            jsonb_object_agg(u.unit, trim_scale(u.amount)::text) AS amounts
                       FROM (
                           SELECT t.resource_type, t.unit, sum(t.amount) AS amount, sum(t.cost_cad) AS cost_cad
                             FROM usage_totals t
                            WHERE t.machine_uuid = f.uuid
                            GROUP BY 1, 2
                       ) u
                      GROUP BY 1
                 ) r
           ), '{}')"""

_FOLD: Final[LiteralString] = f"""
WITH {counted("intelligent_machines", _KEY, "MachineRequested", _TYPES, _ALSO)},
folded AS (
    SELECT uuid,
           bool_or(known) AS known,
           (array_agg(body) FILTER (WHERE type = 'MachineRequested'))[1] AS request,
           (array_agg(project_uuid) FILTER (WHERE type = 'MachineRequested'))[1] AS project_uuid,
           min(recorded_at) FILTER (WHERE type = 'MachineRequested') AS spawned_at,
           (array_agg(phase ORDER BY seq DESC) FILTER (WHERE phase IS NOT NULL))[1] AS phase,
           {last("COALESCE(body->>'outcome', 'denied')", "MachineEnded", "MachineDenied")} AS outcome,
           {last("(body->>'exit_code')::integer", "MachineEnded")} AS exit_code,
           max((body->>'epoch')::integer) AS epoch,
           {last("body->>'hypervisor'", "MachineProvisioningStarted")} AS hypervisor,
           {last("body->>'node'", "MachineProvisioningStarted")} AS node,
           {last("body->>'vm_id'", "MachineBooted")} AS vm_id,
           {first("(body->>'from_checkpoint_id')::uuid", "MachineRequested", "MachineProvisioningStarted")} AS parent,
           {last("aggregate_uuid", "CheckpointTaken")} AS last_checkpoint,
           count(*) FILTER (WHERE type = 'CheckpointTaken') AS checkpoints,
           {last("body->>'message'", "MachineProgressed")} AS progress,
           {last("(body->>'percent')::integer", "MachineProgressed")} AS percent,
           -- Empty: it went well after all.
           {last(_ERROR, "MachineDenied", "MachineEnded", "MachineQuarantined")} AS error,
           {last(_HOLD_REASON, *_EXPLAINED)} AS hold_reason,
           {last(_HELD_UNTIL, *_EXPLAINED)} AS held_until,
           {last("recorded_at", "MachineEnded", "MachineDenied")} AS terminated_at,
           (array_agg(recorded_at ORDER BY seq DESC))[1] AS updated_at,
           bool_or(type IN ({words(_USED)})) AS used,
           jsonb_strip_nulls(jsonb_build_object({_MOVED})) AS moved,
           max(seq) AS last_seq
      FROM counted
     GROUP BY uuid
), changed AS (
    UPDATE intelligent_machines m
       SET status = CASE COALESCE(f.phase, m.phase) {_STATUS} END,
           phase = COALESCE(f.phase, m.phase),
           outcome = COALESCE(f.outcome, m.outcome),
           exit_code = COALESCE(f.exit_code, m.exit_code),
           epoch = GREATEST(f.epoch, m.epoch),
           hypervisor = COALESCE(f.hypervisor, m.hypervisor),
           node = COALESCE(f.node, m.node),
           vm_id = COALESCE(f.vm_id, m.vm_id),
           parent_checkpoint_uuid = COALESCE(m.parent_checkpoint_uuid, f.parent),
           last_checkpoint_uuid = COALESCE(f.last_checkpoint, m.last_checkpoint_uuid),
           checkpoint_count = m.checkpoint_count + f.checkpoints,
           resource_usage = CASE WHEN f.used THEN {_USAGE} ELSE m.resource_usage END,
           holds = CASE f.moved WHEN '{{}}' THEN m.holds ELSE (
               SELECT COALESCE(jsonb_agg(w.hold ORDER BY w.hold), '[]')
                 FROM (VALUES {_HOLDS}) w (hold)
                WHERE COALESCE((f.moved->>w.hold)::boolean, m.holds ? w.hold)
           ) END,
           current_progress = COALESCE(f.progress, m.current_progress),
           progress_percent = COALESCE(f.percent, m.progress_percent),
           error_message = NULLIF(COALESCE(f.error, m.error_message), ''),
           hold_reason = NULLIF(COALESCE(f.hold_reason, m.hold_reason), ''),
           held_until = CASE WHEN f.held_until IS NULL THEN m.held_until ELSE NULLIF(f.held_until, '')::timestamptz END,
           updated_at = f.updated_at,
           terminated_at = COALESCE(f.terminated_at, m.terminated_at),
           last_seq = f.last_seq
      FROM folded f
     WHERE m.uuid = f.uuid
       AND f.known
)
INSERT INTO intelligent_machines (
       uuid, project_uuid, machine_type, status, phase, outcome, exit_code, epoch, hypervisor, node, vm_id,
       parent_checkpoint_uuid, last_checkpoint_uuid, checkpoint_count, original_prompt, greediness,
       file_modifications, resource_constraints, resource_usage, holds, model, current_progress, progress_percent,
       error_message, hold_reason, held_until, metadata, spawned_at, updated_at, terminated_at, last_seq)
SELECT f.uuid,
       f.project_uuid,
       f.request->>'machine_type',
       CASE f.phase {_STATUS} END,
       f.phase,
       f.outcome,
       f.exit_code,
       COALESCE(f.epoch, 0),
       f.hypervisor,
       f.node,
       f.vm_id,
       f.parent,
       f.last_checkpoint,
       f.checkpoints,
       f.request->>'goal',
       (f.request->>'greediness')::numeric,
       (SELECT COALESCE(jsonb_agg(x.file - 'text' || CASE WHEN x.file ? 'text'
                                      THEN jsonb_build_object('size_bytes', octet_length(x.file->>'text')) ELSE '{{}}' END
                                  ORDER BY x.number), '[]')
          FROM jsonb_array_elements(COALESCE(f.request->'files', '[]')) WITH ORDINALITY x (file, number)),
       COALESCE(f.request->'limits', '{{}}')
       || jsonb_strip_nulls(jsonb_build_object('budget_cad', f.request->'budget', 'calls', f.request->'calls')),
       CASE WHEN f.used THEN {_USAGE} ELSE '{{}}' END,
       (SELECT COALESCE(jsonb_agg(h.key ORDER BY h.key), '[]')
          FROM jsonb_each(f.moved) h
         WHERE h.value = 'true'),
       f.request->>'model',
       f.progress,
       f.percent,
       NULLIF(f.error, ''),
       NULLIF(f.hold_reason, ''),
       NULLIF(f.held_until, '')::timestamptz,
       COALESCE(f.request->'metadata', '{{}}'),
       f.spawned_at,
       f.updated_at,
       f.terminated_at,
       f.last_seq
  FROM folded f
 WHERE NOT f.known
"""

MACHINES: Final = Model("intelligent_machines", "uuid", frozenset(_TYPES), _FOLD)
