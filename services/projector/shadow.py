"""The tables beside the live ones: made, compared, swapped. One connection, which also holds the live projector back."""

from dataclasses import dataclass
from typing import Final, LiteralString, cast

import psycopg
from psycopg import sql

from services.kit.tables import OWNER, create_tables
from services.projector.models import MODELS
from services.projector.writer import CONNECT_S, LIVE, Position

EXAMPLES_MAX = 5
LOCK_S = 30
"""Readers are given at most 15 s per statement; the swap waits for those that run."""

_SESSION: Final[LiteralString] = """
    SET timezone = 'UTC';
    SET jit = off;
    SET work_mem = '64MB';
    SET maintenance_work_mem = '256MB';
    SET search_path = public
"""
_TABLES: Final[LiteralString] = """
    SELECT c.relname
      FROM pg_class c
     WHERE c.relnamespace = %s::regnamespace
       AND c.relkind IN ('r', 'p')
       AND NOT c.relispartition
     ORDER BY 1
"""
_PARTITIONS: Final[LiteralString] = """
    SELECT c.relname
      FROM pg_class c
     WHERE c.relnamespace = %s::regnamespace
       AND c.relkind = 'r'
       AND c.relispartition
     ORDER BY 1
"""
_INDEXES: Final[LiteralString] = """
    SELECT c.relname, pg_get_indexdef(c.oid)
      FROM pg_index i
      JOIN pg_class c ON c.oid = i.indexrelid
     WHERE c.relnamespace = %s::regnamespace
       AND NOT i.indisunique
       AND c.relname <> ALL (%s)
     ORDER BY 1
"""
_FOLDED_BY: Final = ["reservations_by_last_seq"]
"""The secondary indexes that the folds themselves look things up by."""
_KEYS: Final = {"events": "seq", **{model.table: model.key for model in MODELS}}
_SPECIAL: Final = frozenset({"projection", "events"})


@dataclass(frozen=True, slots=True)
class Difference:
    """How the rows of a table differ from what the log says."""

    table: str
    only_live: int
    only_log: int
    different: int
    examples: tuple[str, ...]
    """Keys of a few of those rows."""

    def __add__(self, other: "Difference") -> "Difference":
        return Difference(
            self.table,
            self.only_live + other.only_live,
            self.only_log + other.only_log,
            self.different + other.different,
            (self.examples + other.examples)[:EXAMPLES_MAX],
        )


class Shadow:
    """The tables in a schema of their own."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._schema = schema
        self._indexes: list[LiteralString] = []
        self._claimed = False
        self._connection = psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_S, application_name=schema)
        self._connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(OWNER)))
        self._connection.execute(_SESSION)

    def claim(self) -> bool:
        """Be the only one, as long as this connection lives."""
        row = self._connection.execute(
            "SELECT pg_try_advisory_lock(hashtext('autovibe_rebuild'), hashtext(%s))", (self._schema,)
        ).fetchone()
        self._claimed = row is not None and row[0] is True
        return self._claimed

    def make(self) -> None:
        """Make the tables, empty; what an earlier one left behind goes. Secondary indexes wait for `index`."""
        connection, schema = self._connection, sql.Identifier(self._schema)
        with connection.transaction():
            self._drop()
            create_tables(connection, self._schema)
            connection.execute(
                sql.SQL("CREATE TABLE {}.projection (LIKE public.projection INCLUDING ALL)").format(schema)
            )
            connection.execute(sql.SQL("INSERT INTO {}.projection (name) VALUES ('live')").format(schema))
            for name, definition in connection.execute(_INDEXES, (self._schema, _FOLDED_BY)).fetchall():
                self._indexes.append(cast("LiteralString", definition))  # from the catalogue
                connection.execute(sql.SQL("DROP INDEX {}.{}").format(schema, sql.Identifier(name)))

    def live(self) -> Position:
        """Return where the live tables stand."""
        return self._position(
            sql.SQL("SELECT position, hash, stream_created FROM public.projection WHERE name = 'live'")
        )

    def hold(self) -> Position:
        """Begin the transaction of comparison and swap: the live projector waits until it ends."""
        self._connection.execute("BEGIN")
        return self._position(
            sql.SQL("SELECT position, hash, stream_created FROM public.projection WHERE name = 'live' FOR UPDATE")
        )

    def _position(self, query: sql.SQL) -> Position:
        row = self._connection.execute(query).fetchone()
        if row is None:
            raise LookupError("there is no projection; remedy: autovibe migrate")
        return Position(row[0], row[1], row[2])

    def index(self) -> None:
        """Make the indexes that were left out."""
        for definition in self._indexes:
            self._connection.execute(definition)
        self._indexes.clear()

    def compare_events(self, after: int, upto: int) -> Difference | None:
        """Compare a stretch of the copy; it never changes, so nobody has to wait."""
        span = sql.SQL("WHERE seq > {} AND seq <= {}").format(after, upto)
        # Both lie in the order of seq: hashed or sorted, a million wide rows would go through temporary files.
        self._connection.execute("SET enable_hashjoin = off; SET enable_sort = off")
        found = self._compare("events", span)
        self._connection.execute("RESET enable_hashjoin; RESET enable_sort")
        return found

    def compare_models(self) -> list[Difference]:
        """Compare every other table; inside `hold`."""
        rows = self._connection.execute(_TABLES, (self._schema,)).fetchall()
        found = [self._compare(name, sql.SQL("")) for (name,) in rows if name not in _SPECIAL]
        return [difference for difference in found if difference is not None]

    def _compare(self, table: str, span: sql.Composable) -> Difference | None:
        key = [sql.Identifier(part.strip()) for part in _KEYS.get(table, "uuid").split(",")]
        query = sql.SQL("""
            SELECT count(*) FILTER (WHERE l.last IS NULL),
                   count(*) FILTER (WHERE o.last IS NULL),
                   count(*),
                   (array_agg(concat_ws(', ', {key})))[1:{examples}]
              FROM (SELECT *, true AS last FROM {shadow} {span}) l
              FULL JOIN (SELECT *, true AS last FROM {live} {span}) o USING ({key})
             WHERE ROW(l.*) IS DISTINCT FROM ROW(o.*)
        """).format(
            key=sql.SQL(", ").join(key),
            examples=EXAMPLES_MAX,
            shadow=sql.Identifier(self._schema, table),
            live=sql.Identifier(LIVE, table),
            span=span,
        )
        row = self._connection.execute(query).fetchone()
        if row is None or row[2] == 0:
            return None
        return Difference(table, row[0], row[1], row[2] - row[0] - row[1], tuple(row[3]))

    def swap(self, built: Position) -> None:
        """Put the tables in the place of the live ones and end the transaction that `hold` began."""
        connection, schema = self._connection, sql.Identifier(self._schema)
        tables = [name for (name,) in connection.execute(_TABLES, (self._schema,)).fetchall() if name != "projection"]
        partitions = [name for (name,) in connection.execute(_PARTITIONS, (self._schema,)).fetchall()]
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(f"{LOCK_S}s"))
        names = sql.SQL(", ").join(sql.Identifier(LIVE, name) for name in tables)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names))
        connection.execute(sql.SQL("DROP TABLE {}").format(names))
        for name in (*tables, *partitions):
            move = sql.SQL("ALTER TABLE {}.{} SET SCHEMA public")
            connection.execute(move.format(schema, sql.Identifier(name)))
        connection.execute(
            sql.SQL("""
                UPDATE public.projection p
                   SET position = r.position, hash = r.hash, stream_created = r.stream_created,
                       recorded_at = r.recorded_at, epoch = p.epoch + 1, state = 'running', halted_reason = NULL,
                       updated_at = clock_timestamp()
                  FROM {}.projection r
                 WHERE p.name = 'live'
                   AND r.name = 'live'
                   AND r.position = {}
            """).format(schema, built.seq)
        )
        connection.execute("SELECT pg_notify('autovibe_position', %s)", (str(built.seq),))
        connection.execute("COMMIT")

    def close(self) -> None:
        """End whatever is open and let the live projector go on; the shadow's tables go too, if they are ours."""
        try:
            self._connection.execute("ROLLBACK")
            if self._claimed:
                self._drop()
            # Said rather than left to the closed connection, which the server notices in its own time.
            self._connection.execute("SELECT pg_advisory_unlock_all()")
        finally:
            self._connection.close()

    def _drop(self) -> None:
        tables = self._connection.execute(_TABLES, (self._schema,)).fetchall()
        if tables:
            names = sql.SQL(", ").join(sql.Identifier(self._schema, name) for (name,) in tables)
            self._connection.execute(sql.SQL("DROP TABLE {}").format(names))
