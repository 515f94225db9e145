"""Reports: sums over the read models, each one statement whose JSON the database builds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString

from events.ids import project_uuid
from events.words import Resource
from services.query.parameters import Parameter, by_project, by_time, by_uuid, by_word

LINES_MAX: LiteralString = "1000"
TREE_NODES_MAX: LiteralString = "10000"
"""The newest; 3 MB of JSON."""


@dataclass(frozen=True, slots=True)
class Report:
    """One report: its statement answers one JSON text. `{where}` in it becomes what was asked, or nothing."""

    summary: str
    before: LiteralString
    after: LiteralString
    filters: tuple[Parameter, ...]
    scope: LiteralString
    """Column with the uuid of the project that a row belongs to."""
    always: LiteralString = ""
    """A clause that stands whatever is asked."""
    unless: Mapping[str, LiteralString] | None = None
    """Clauses that stand unless this filter was asked for."""

    def ask(self, asked: Mapping[str, object], scope: Sequence[str] | None) -> tuple[LiteralString, dict[str, object]]:
        """Return the statement for what was asked, and its parameters; `scope` holds slugs, None: every project."""
        clauses: list[LiteralString] = [
            filter_.clause for filter_ in self.filters if filter_.clause and filter_.name in asked
        ]
        values = {
            filter_.name: asked[filter_.name] for filter_ in self.filters if filter_.clause and filter_.name in asked
        }
        if self.always:
            clauses.append(self.always)
        for name, clause in (self.unless or {}).items():
            if name not in asked:
                clauses.append(clause)
        if scope is not None:
            clauses.append(f"{self.scope} = ANY(%(scope)s::uuid[])")
            values["scope"] = [project_uuid(slug) for slug in scope]
        where: LiteralString = " WHERE " + " AND ".join(clauses) if clauses else ""
        return self.before + where + self.after, values


def _usage_by(name: LiteralString, expression: LiteralString, summary: str, always: LiteralString = "") -> Report:
    return Report(
        summary,
        f"""
        SELECT json_build_object('by', '{name}', 'items', coalesce(json_agg(json_build_object(
                   '{name}', line.grouped, 'resource_type', line.resource_type, 'unit', line.unit,
                   'amount', line.amount::text, 'cost_cad', line.cost_cad::text, 'records', line.records)
                   ORDER BY line.cost_cad DESC, line.grouped, line.resource_type, line.unit), '[]'))::text
          FROM (SELECT {expression} AS grouped, u.resource_type, u.unit,
                       sum(u.amount) AS amount, sum(u.cost_cad) AS cost_cad, count(*) AS records
                  FROM resource_usage AS u
                  LEFT JOIN projects AS p ON p.uuid = u.project_uuid
                  LEFT JOIN intelligent_machines AS m ON m.uuid = u.machine_uuid
        """,  # noqa: S608  # literals
        f"""
                 GROUP BY 1, 2, 3
                 ORDER BY 5 DESC, 1, 2, 3
                 LIMIT {LINES_MAX}) AS line
        """,
        (
            by_project("u.project_uuid = %(project)s"),
            by_uuid("machine", "u.machine_uuid = %(machine)s"),
            by_word("type", Resource, "u.resource_type = %(type)s"),
            by_time("since", "u.recorded_at >= %(since)s"),
            by_time("until", "u.recorded_at < %(until)s"),
        ),
        "u.project_uuid",
        always,
    )


USAGE_BY: dict[str, Report] = {
    "project": _usage_by("project", "p.name", "Usage and cost by project"),
    "machine": _usage_by("machine", "u.machine_uuid::text", "Usage and cost by machine"),
    "type": _usage_by("type", "u.resource_subtype", "Usage and cost by subtype"),
    "agent": _usage_by("agent", "m.machine_type", "Usage and cost by machine type"),
    "model": _usage_by("model", "u.metadata->>'model'", "Use and cost of model calls by model", "u.metadata ? 'model'"),
    "day": _usage_by("day", "to_char(u.recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')", "Usage and cost by day (UTC)"),
}
BY = by_word("by", tuple(USAGE_BY))

TREE = Report(
    f"The checkpoint tree of a project, parents before children; the newest {TREE_NODES_MAX}",
    """
    SELECT coalesce(json_agg(to_json(node) ORDER BY node.created_at, node.last_seq), '[]')::text
      FROM (SELECT c.uuid, c.parent_checkpoint_uuid, c.creating_machine_uuid, c.checkpoint_type, c.creation_context,
                   c.verification_status, c.pinned, c.purged_at, c.size_bytes, c.file_manifest, c.description,
                   c.created_at, c.last_seq,
                   coalesce(c.uuid = p.current_checkpoint_uuid, FALSE) AS current,
                   left(m.original_prompt, 200) AS goal, m.outcome,
                   (SELECT coalesce(sum(t.cost_cad), 0)::text
                      FROM usage_totals AS t
                     WHERE t.machine_uuid = m.uuid) AS cost_cad
              FROM checkpoints AS c
              JOIN projects AS p ON p.uuid = c.project_uuid
              LEFT JOIN intelligent_machines AS m ON m.uuid = c.creating_machine_uuid
    """,
    f"""
             ORDER BY c.created_at DESC, c.uuid DESC
             LIMIT {TREE_NODES_MAX}) AS node
    """,
    (by_project("c.project_uuid = %(project)s").needed(),),
    "c.project_uuid",
)

BUDGET = Report(
    "Budget against use, by account, resource and period",
    """
    SELECT json_build_object('items', coalesce(json_agg(to_json(line)
               ORDER BY line.scope, line.project, line.resource_type, line.period_start DESC, line.budget_period),
               '[]'))::text
      FROM (SELECT b.scope, p.name AS project, b.machine_uuid, b.resource_type, b.budget_period, b.period_start,
                   b.period_end, b.unit, b.allocated_amount::text, b.used_amount::text, b.reserved_amount::text,
                   (b.allocated_amount - b.used_amount - b.reserved_amount)::text AS available_amount,
                   CASE WHEN b.allocated_amount > 0
                        THEN round(100 * b.used_amount / b.allocated_amount, 1)::text END AS used_percent,
                   b.base_amount::text, b.soft_amount::text, b.carry_over, b.on_exhausted, b.thresholds,
                   coalesce(b.used_amount >= b.soft_amount, false) AS soft_reached,
                   (SELECT coalesce(json_agg(t.percent ORDER BY t.percent), '[]')
                      FROM (SELECT e.value::numeric AS percent FROM jsonb_array_elements_text(b.thresholds) AS e) AS t
                     WHERE b.used_amount > 0
                       AND b.used_amount * 100 >= b.allocated_amount * t.percent) AS crossed,
                   (b.used_amount + f.per_s * extract(epoch FROM b.period_end - now()))::numeric(38, 9)::text
                       AS forecast_amount,
                   CASE WHEN f.left_s < 3e9 AND (b.period_end IS NULL OR now() + make_interval(secs => f.left_s) < b.period_end)
                        THEN now() + make_interval(secs => f.left_s) END AS runs_out_at
              FROM resource_budgets AS b
             CROSS JOIN LATERAL (
                   -- At the rate so far: of this period, or since the account was first used.
                   SELECT r.per_s,
                          CASE WHEN r.per_s > 0 AND b.allocated_amount IS NOT NULL
                               THEN least(greatest(b.allocated_amount - b.used_amount, 0) / r.per_s, 4e9)::float8
                               END AS left_s
                     FROM (SELECT CASE WHEN b.period_end IS NULL OR b.period_end > now()
                                       THEN b.used_amount
                                            / greatest(extract(epoch FROM now() - greatest(b.period_start, b.created_at)), 60)
                                       END AS per_s) AS r
                   ) AS f
              LEFT JOIN projects AS p ON p.uuid = b.project_uuid
    """,
    f"""
             ORDER BY b.period_start DESC
             LIMIT {LINES_MAX}) AS line
    """,
    (
        by_project("b.project_uuid = %(project)s"),
        by_uuid("machine", "b.machine_uuid = %(machine)s"),
    ),
    "b.project_uuid",
    unless={"machine": "b.scope <> 'machine'"},
)

OUTCOMES = Report(
    "Machines by project, type, status and outcome",
    """
    SELECT json_build_object('items', coalesce(json_agg(to_json(line)
               ORDER BY line.project, line.machine_type, line.status, line.outcome), '[]'))::text
      FROM (SELECT p.name AS project, m.machine_type, m.status, m.outcome, count(*) AS machines
              FROM intelligent_machines AS m
              LEFT JOIN projects AS p ON p.uuid = m.project_uuid
    """,
    f"""
             GROUP BY 1, 2, 3, 4
             ORDER BY 5 DESC, 1, 2, 3, 4
             LIMIT {LINES_MAX}) AS line
    """,
    (
        by_project("m.project_uuid = %(project)s"),
        by_time("since", "m.spawned_at >= %(since)s"),
    ),
    "m.project_uuid",
)

REPORTS: dict[str, Report] = {
    **{f"cost-by-{name}": report for name, report in USAGE_BY.items()},
    "budgets": BUDGET,
    "outcomes": OUTCOMES,
}
