"""`hub_instances`: one row per hub. A stopped one is inactive, not terminated."""

from typing import Final, LiteralString

from services.projector.models.base import Model, counted, last

_TYPES: Final = ("HubRegistered", "HubStarted", "HubStopped")

_FOLD: Final[LiteralString] = f"""
WITH {counted("hub_instances", "e.aggregate_uuid", "HubRegistered", _TYPES)},
folded AS (
    SELECT uuid,
           bool_or(known) AS known,
           {last("body", "HubRegistered")} AS registered,
           {last("recorded_at", "HubRegistered")} AS spawned_at,
           {last("recorded_at", "HubStarted")} AS started_at,
           {last("body->>'hub_version'", "HubRegistered", "HubStarted")} AS version,
           {last("type <> 'HubStopped'", "HubStarted", "HubStopped")} AS up,
           max(seq) AS last_seq
      FROM counted
     GROUP BY uuid
), changed AS (
    UPDATE hub_instances i
       SET status = CASE
               WHEN f.up IS NULL THEN i.status
               WHEN NOT f.up THEN 'inactive'
               WHEN i.hub_type = 'experimental' THEN 'experimental'
               ELSE 'active'
           END,
           version = COALESCE(f.version, i.version),
           started_at = COALESCE(f.started_at, i.started_at),
           last_seq = f.last_seq
      FROM folded f
     WHERE i.uuid = f.uuid
       AND f.known
)
INSERT INTO hub_instances (uuid, hub_type, status, name, version, config, spawned_at, started_at, metadata, last_seq)
SELECT uuid,
       registered->>'hub_type',
       CASE
           WHEN NOT COALESCE(up, true) THEN 'inactive'
           WHEN registered->>'hub_type' = 'experimental' THEN 'experimental'
           ELSE 'active'
       END,
       registered->>'name',
       version,
       COALESCE(registered->'config', '{{}}'),
       spawned_at,
       started_at,
       '{{}}',
       last_seq
  FROM folded
 WHERE NOT known
"""

INSTANCES: Final = Model("hub_instances", "uuid", frozenset(_TYPES), _FOLD)
