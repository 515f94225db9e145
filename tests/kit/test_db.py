"""The pool: bounded, with deadlines, read-only where it is asked for."""

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from services.kit import db
from services.kit.settings import DatabaseSettings


async def test_a_pool_has_limits_and_deadlines(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "ACQUIRE_TIMEOUT_S", 0.2)
    settings = DatabaseSettings(database_url=database, database_connections_max=1)
    async with db.connect(settings, name="test", statement_timeout_ms=50) as pool, pool.connection() as connection:
        with pytest.raises(psycopg.errors.QueryCanceled):
            await connection.execute("SELECT pg_sleep(5)")
        with pytest.raises(PoolTimeout):
            async with pool.connection():
                pass


async def test_a_read_only_pool_does_not_write(database: str) -> None:
    async with (
        db.connect(DatabaseSettings(database_url=database), name="test", read_only=True) as pool,
        pool.connection() as connection,
    ):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await connection.execute("CREATE TABLE x (y integer)")
