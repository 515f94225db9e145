"""What the other tests stand on."""

import asyncio

import pytest
from psycopg import AsyncConnection

from tests.harness import eventually


async def test_a_level_that_comes_late_is_waited_for_and_returned() -> None:
    values = iter([0, 0, 7])
    assert await eventually(lambda: next(values)) == 7


async def test_a_level_may_be_asked_asynchronously() -> None:
    values = iter([[], ["there"]])

    async def level() -> list[str]:
        return next(values)

    assert await eventually(level) == ["there"]


async def test_a_level_that_never_comes_fails_with_its_last_value() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: the level is still ''"):
        await eventually(lambda: "", timeout_s=0.05)


async def test_an_assertion_inside_a_level_is_not_yet_until_the_deadline() -> None:
    values = iter([1, 2, 3])

    def level() -> bool:
        assert next(values) == 3
        return True

    assert await eventually(level)

    def never() -> bool:
        raise AssertionError("still wrong")

    with pytest.raises(AssertionError, match="still wrong"):
        await eventually(never, timeout_s=0.05)


async def test_a_level_that_hangs_fails_at_the_deadline() -> None:
    with pytest.raises(AssertionError, match="gave no answer"):
        await eventually(asyncio.Event().wait, timeout_s=0.05)


@pytest.mark.parametrize("_time", [1, 2])
async def test_every_test_has_a_database_of_its_own(database: str, _time: int) -> None:
    async with await AsyncConnection.connect(database) as connection:
        await connection.execute("CREATE TABLE only_mine (i int)")
