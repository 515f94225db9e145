"""The `eventsourcing` library as a peer of bench/projector.py: its ProjectionRunner and its PostgreSQL recorders.

Its application keeps the same mixed events in a log of its own (another log it cannot read); its projection validates
each with the same models and keeps the same rows as the other peers, in the documented manner: one transaction per
event, in which the library's tracking record is written too. The filling is not measured.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

import psycopg
from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.conninfo import conninfo_to_dict

from events import fresh
from events.registry import parse
from tests.projector.histories import Said

EVENTS_PER_SAVE = 500
DONE_S = 120.0


class Story(Aggregate):
    """Takes events as they come; what they say does not matter to this log."""

    class Heard(Aggregate.Event):
        """One event: subject, when, who and body as they would stand in ours."""

        subject: str
        said_id: str
        said_at: str
        actor: str
        body: str


class Stories(Application[UUID]):
    """The library's log."""


class Rows(PostgresTrackingRecorder):
    """A row per event, a row per machine, and how far they have come."""

    insert: bytes
    upsert: bytes

    def keep(self, row: tuple[object, ...], machine: tuple[object, ...], tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(self.insert, row, prepare=True)
            cursor.execute(self.upsert, machine, prepare=True)
            self._insert_tracking(cursor, tracking)


class Folding(Projection[Rows]):
    """Validates and keeps each event."""

    name = "peer"

    @singledispatchmethod
    def process_event(self, domain_event: object, tracking: Tracking) -> None:
        """Pass over what is not ours: each aggregate begins with an event of the library's."""

    @process_event.register
    def _(self, heard: Story.Heard, tracking: Tracking) -> None:
        seq = tracking.notification_id
        _, slug, aggregate, id_, type_name = heard.subject.split(".")
        parse(type_name, heard.body.encode())
        at = datetime.fromisoformat(heard.said_at)
        row = (seq, heard.said_id, slug, aggregate, id_, type_name, at, heard.actor, heard.body)
        self.view.keep(row, (id_, type_name, 1, seq), tracking)


def environment(dsn: str) -> dict[str, str]:
    told = conninfo_to_dict(dsn)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(told.get("dbname")),
        "POSTGRES_HOST": str(told.get("host")),
        "POSTGRES_PORT": str(told.get("port") or 5432),
        "POSTGRES_USER": str(told.get("user")),
        "POSTGRES_PASSWORD": str(told.get("password") or ""),
    }


def fill(dsn: str, count: int, source: Iterator[Said]) -> None:
    """Append the events, many in one save."""
    application = Stories(environment(dsn))
    try:
        for start in range(0, count, EVENTS_PER_SAVE):
            story = Story()
            for said in islice(source, min(EVENTS_PER_SAVE, count - start)):
                story.trigger_event(
                    Story.Heard,
                    subject=said.address.subject(said.event.type()),
                    said_id=str(fresh.uuid7()),
                    said_at=datetime.now(UTC).isoformat(),
                    actor=said.cause.actor,
                    body=said.event.body().decode(),
                )
            application.save(story)
    finally:
        application.close()


def project(dsn: str, insert: str, upsert: str) -> Callable[[], None]:
    """Return what projects everything there is."""
    Rows.insert, Rows.upsert = insert.encode(), upsert.encode()

    def run() -> None:
        runner = ProjectionRunner(
            application_class=Stories, projection_class=Folding, view_class=Rows, env=environment(dsn)
        )
        with runner:
            runner.wait(runner.app.recorder.max_notification_id(), timeout=DONE_S)

    return run


def rows_of(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM peer_events").fetchone()
    return row[0] if row else 0
