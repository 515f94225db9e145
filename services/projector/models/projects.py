"""`projects`: one row per project."""

from typing import Final, LiteralString

from services.projector.models.base import Model, counted, last

_TYPES: Final = ("ProjectCreated", "ProjectUpdated", "ProjectArchived", "ProjectAdvanced")

_STATUS: Final[LiteralString] = "CASE type WHEN 'ProjectArchived' THEN 'archived' ELSE body->>'status' END"
_CURRENT: Final[LiteralString] = "COALESCE(body->>'checkpoint_id', body->>'current_checkpoint_id')::uuid"

_FOLD: Final[LiteralString] = f"""
WITH {counted("projects", "e.project_uuid", "ProjectCreated", _TYPES)},
folded AS (
    SELECT uuid,
           bool_or(known) AS known,
           min(project) AS name,
           {last("body", "ProjectCreated")} AS created,
           {last("body->>'description'", "ProjectUpdated")} AS description,
           {last("(body->>'greediness')::numeric", "ProjectUpdated")} AS greediness,
           {last(_STATUS, "ProjectUpdated", "ProjectArchived")} AS status,
           {last("body->'checkpoint_policy'", "ProjectUpdated")} AS checkpoint_policy,
           {last("body->'agent_policy'", "ProjectUpdated")} AS agent_policy,
           {last("body->'metadata'", "ProjectUpdated")} AS metadata,
           (array_agg((body->>'checkpoint_id')::uuid ORDER BY seq) FILTER (WHERE type = 'ProjectAdvanced'))[1] AS initial,
           {last(_CURRENT, "ProjectAdvanced", "ProjectUpdated")} AS current,
           min(recorded_at) FILTER (WHERE type = 'ProjectCreated') AS created_at,
           (array_agg(recorded_at ORDER BY seq DESC))[1] AS updated_at,
           max(seq) AS last_seq
      FROM counted
     GROUP BY uuid
), changed AS (
    UPDATE projects p
       SET description = COALESCE(f.description, p.description),
           greediness = COALESCE(f.greediness, p.greediness),
           status = COALESCE(f.status, p.status),
           checkpoint_policy = COALESCE(f.checkpoint_policy, p.checkpoint_policy),
           agent_policy = COALESCE(f.agent_policy, p.agent_policy),
           metadata = COALESCE(f.metadata, p.metadata),
           initial_checkpoint_uuid = COALESCE(p.initial_checkpoint_uuid, f.initial),
           current_checkpoint_uuid = COALESCE(f.current, p.current_checkpoint_uuid),
           updated_at = f.updated_at,
           last_seq = f.last_seq
      FROM folded f
     WHERE p.uuid = f.uuid
       AND f.known
)
INSERT INTO projects (uuid, name, description, greediness, status, initial_checkpoint_uuid, current_checkpoint_uuid,
                      checkpoint_policy, agent_policy, metadata, created_at, updated_at, last_seq)
SELECT uuid,
       name,
       COALESCE(description, created->>'description', ''),
       COALESCE(greediness, (created->>'greediness')::numeric, 0.50),
       COALESCE(status, 'active'),
       initial,
       current,
       COALESCE(checkpoint_policy, created->'checkpoint_policy', '{{}}'),
       COALESCE(agent_policy, created->'agent_policy', '{{}}'),
       COALESCE(metadata, created->'metadata', '{{}}'),
       created_at,
       updated_at,
       last_seq
  FROM folded
 WHERE NOT known
"""

PROJECTS: Final = Model("projects", "uuid", frozenset(_TYPES), _FOLD)
