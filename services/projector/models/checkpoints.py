"""`checkpoints`: one row per node of the tree. Requests and failures make none."""

from typing import Final, LiteralString

from services.projector.models.base import Model, counted, last

_TYPES: Final = (
    "CheckpointTaken",
    "CheckpointVerified",
    "CheckpointCorrupted",
    "CheckpointPinned",
    "CheckpointUnpinned",
    "CheckpointPurged",
)

_VERDICT: Final[LiteralString] = "CASE type WHEN 'CheckpointVerified' THEN 'verified' ELSE 'corrupt' END"

_FOLD: Final[LiteralString] = f"""
WITH {counted("checkpoints", "e.aggregate_uuid", "CheckpointTaken", _TYPES)},
folded AS (
    SELECT uuid,
           bool_or(known) AS known,
           {last("body", "CheckpointTaken")} AS taken,
           {last("project_uuid", "CheckpointTaken")} AS project_uuid,
           {last("recorded_at", "CheckpointTaken")} AS created_at,
           {last(_VERDICT, "CheckpointVerified", "CheckpointCorrupted")} AS verdict,
           {last("recorded_at", "CheckpointVerified", "CheckpointCorrupted")} AS verified_at,
           {last("type = 'CheckpointPinned'", "CheckpointPinned", "CheckpointUnpinned")} AS pinned,
           {last("recorded_at", "CheckpointPurged")} AS purged_at,
           max(seq) AS last_seq
      FROM counted
     GROUP BY uuid
), changed AS (
    UPDATE checkpoints c
       SET verification_status = COALESCE(f.verdict, c.verification_status),
           verified_at = COALESCE(f.verified_at, c.verified_at),
           pinned = COALESCE(f.pinned, c.pinned),
           purged_at = COALESCE(f.purged_at, c.purged_at),
           last_seq = f.last_seq
      FROM folded f
     WHERE c.uuid = f.uuid
       AND f.known
)
INSERT INTO checkpoints (uuid, project_uuid, parent_checkpoint_uuid, creating_machine_uuid, creating_epoch,
                         checkpoint_type, creation_context, snapshot, file_manifest, description, size_bytes,
                         stored_bytes, compression_ratio, verification_status, pinned, log_seq, balance, metadata,
                         created_at, verified_at, purged_at, last_seq)
SELECT uuid,
       project_uuid,
       (taken->>'parent_id')::uuid,
       (taken->>'machine_id')::uuid,
       (taken->>'epoch')::integer,
       taken->>'checkpoint_type',
       taken->>'creation_context',
       taken->>'snapshot',
       jsonb_build_object('digest', taken->'snapshot', 'file_count', taken->'file_count',
                          'added', COALESCE(taken->'added', '0'), 'changed', COALESCE(taken->'changed', '0'),
                          'removed', COALESCE(taken->'removed', '0'), 'skipped', COALESCE(taken->'skipped', '[]'),
                          'captured_bytes', COALESCE(taken->'captured_bytes', '0'),
                          'capture_ms', COALESCE(taken->'capture_ms', '0')),
       COALESCE(taken->>'description', ''),
       (taken->>'size_bytes')::bigint,
       (taken->>'stored_bytes')::bigint,
       -- A file of zeros compresses by more than the column holds.
       CASE WHEN taken->>'stored_bytes' <> '0' THEN
           LEAST(round((taken->>'captured_bytes')::numeric / (taken->>'stored_bytes')::numeric, 4), 999.9999)
       END,
       COALESCE(verdict, 'pending'),
       COALESCE(pinned, false),
       COALESCE((taken->>'log_seq')::bigint, 0),
       COALESCE(taken->'balance', '{{}}'),
       '{{}}',
       created_at,
       verified_at,
       purged_at,
       last_seq
  FROM folded
 WHERE NOT known
"""

CHECKPOINTS: Final = Model("checkpoints", "uuid", frozenset(_TYPES), _FOLD)
