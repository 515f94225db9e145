"""The rows depend on the log and on nothing else: not on the batches, not on what is delivered twice."""

from collections.abc import Iterator
from decimal import Decimal

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.projector.writer import Writer
from tests.projector.fold import fold
from tests.projector.histories import cuts, histories, messages
from tests.projector.stories import shop
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
    world.one._months.clear()  # pyright: ignore[reportPrivateUsage] # takes the way of large batches, the other that of small
    write(world.one, [log])
    write(world.other, [log[start:end] for start, end in data.draw(cuts(len(log)))])

    in_one = read(world.connection, "public")
    assert read(world.connection, "other") == in_one
    assert in_one == fold(history)
    assert copied(world.connection, "other") == copied(world.connection, "public")


@pytest.mark.parametrize("size", [1, 2, 7])
def test_lives_as_they_happen_give_the_same_rows_in_small_batches(world: World, size: int) -> None:
    history = shop(3)
    log = messages(history)
    write(world.one, [log])
    write(world.other, [log[start : start + size] for start in range(0, len(log), size)])

    in_one = read(world.connection, "public")
    assert read(world.connection, "other") == in_one
    assert in_one == fold(history)


def test_a_settled_life_leaves_nothing_reserved_and_its_use_on_all_three_accounts(world: World) -> None:
    write(world.one, [messages(shop(2))])
    rows = read(world.connection, "public")
    money = {row["node"]: row for row in rows["resource_budgets"].values() if row["resource_type"] == "money"}
    assert {row["reserved_amount"] for row in money.values()} == {0}
    assert (money["_hub"]["allocated_amount"], money["_hub"]["used_amount"]) == (Decimal(100), Decimal("1.4"))
    assert money["webshop"]["used_amount"] == Decimal("1.4")
    machines = list(rows["intelligent_machines"].values())
    assert [(row["status"], row["outcome"], row["checkpoint_count"]) for row in machines] == [
        ("terminated", "succeeded", 1),
        ("terminated", "succeeded", 1),
    ]
    assert machines[0]["resource_usage"]["time"] == {"minutes": "1.25", "cost_cad": "0.000123"}
    assert machines[0]["resource_usage"]["api_calls"] == {"calls": "1", "cost_cad": "0.25"}
    assert machines[0]["resource_usage"]["tokens"] == {"tokens": "55", "cost_cad": "0"}


def test_a_call_is_one_row_with_its_cost_and_its_correction_a_row_with_the_difference(world: World) -> None:
    write(world.one, [messages(shop(1))])
    used = list(read(world.connection, "public")["resource_usage"].values())
    calls = [row for row in used if row["resource_type"] == "api_calls"]
    assert [(row["amount"], row["cost_cad"], row["metadata"]["model"]) for row in calls] == [
        (1, Decimal("0.3"), "claude-opus-5-5"),
        (0, Decimal("-0.05"), "claude-opus-5-5"),
    ]
    tokens = {row["resource_subtype"]: row["amount"] for row in used if row["resource_type"] == "tokens"}
    assert tokens == {"output": 10, "cache_read": -1_000, "cache_write_5m": -60, "cache_write_1h": -40, "input": 25}
