"""`credentials`: who may speak; never what proves it."""

from typing import Final, LiteralString

from services.projector.models.base import Model, counted, first, last

_TYPES: Final = ("CredentialIssued", "CredentialRevoked")

_FOLD: Final[LiteralString] = f"""
WITH {counted("credentials", "e.aggregate_uuid", "CredentialIssued", _TYPES)},
folded AS (
    SELECT uuid,
           bool_or(known) AS known,
           {last("body", "CredentialIssued")} AS issued,
           {last("project_uuid", "CredentialIssued")} AS project_uuid,
           {last("recorded_at", "CredentialIssued")} AS issued_at,
           -- Revoked is revoked: the first time and reason stay.
           {first("recorded_at", "CredentialRevoked")} AS revoked_at,
           {first("COALESCE(body->>'reason', '')", "CredentialRevoked")} AS revoke_reason,
           max(seq) AS last_seq
      FROM counted
     GROUP BY uuid
), changed AS (
    UPDATE credentials c
       SET revoked_at = COALESCE(c.revoked_at, f.revoked_at),
           revoke_reason = COALESCE(c.revoke_reason, f.revoke_reason),
           last_seq = f.last_seq
      FROM folded f
     WHERE c.uuid = f.uuid
       AND f.known
)
INSERT INTO credentials (uuid, project_uuid, kind, name, role, projects, public_key, machine_uuid, epoch, issued_at,
                         expires_at, revoked_at, revoke_reason, last_seq)
SELECT uuid,
       project_uuid,
       issued->>'kind',
       issued->>'name',
       issued->>'role',
       COALESCE(issued->'projects', '[]'),
       issued->>'public_key',
       (issued->>'machine_id')::uuid,
       (issued->>'epoch')::integer,
       issued_at,
       (issued->>'expires_at')::timestamptz,
       revoked_at,
       revoke_reason,
       last_seq
  FROM folded
 WHERE NOT known
"""

CREDENTIALS: Final = Model("credentials", "uuid", frozenset(_TYPES), _FOLD)
