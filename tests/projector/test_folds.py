"""The rows depend on the log and on nothing else: not on the batches, not on what is delivered twice."""

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.projector.writer import Writer
from tests.projector.fold import fold
from tests.projector.histories import cuts, histories, messages
from tests.projector.tables import copied, empty, read, shadow_schema, write

PER_EXAMPLE = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


class World:
    """Two sets of tables and their writers."""

    def __init__(self, dsn: str) -> None:
        shadow_schema(dsn, "other")
        self.connection = psycopg.connect(dsn)
        self.one = Writer(dsn)
        self.other = Writer(dsn, schema="other")

    def reset(self) -> None:
        empty(self.connection, "public")
        empty(self.connection, "other")

    def close(self) -> None:
        for closing in (self.connection, self.one, self.other):
            closing.close()


@pytest.fixture
def world(database: str) -> Iterator[World]:
    made = World(database)
    yield made
    made.close()


@pytest.mark.timeout(300)
@PER_EXAMPLE
@given(data=st.data())
def test_any_history_in_any_batches_gives_the_rows_of_one_batch_and_of_a_plain_fold(
    world: World, data: st.DataObject
) -> None:
    history = data.draw(histories())
    log = messages(history)
    world.reset()
    write(world.one, [log])
    write(world.other, [log[start:end] for start, end in data.draw(cuts(len(log)))])

    in_one = read(world.connection, "public")
    assert read(world.connection, "other") == in_one
    assert in_one == fold(history)
    assert copied(world.connection, "other") == copied(world.connection, "public")
