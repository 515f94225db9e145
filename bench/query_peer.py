"""The peer of bench.query: the same page the usual way, FastAPI with `response_model` and psycopg's pool."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import uvicorn
from fastapi import FastAPI
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

PAGE = """
    SELECT m.uuid, m.machine_type, m.status, m.phase, m.outcome, m.exit_code, m.project_uuid, p.name AS project,
           m.parent_checkpoint_uuid, m.vm_id, m.hub_vm_id, m.hypervisor, m.node, m.epoch, m.original_prompt, m.greediness,
           m.file_modifications, m.resource_constraints, m.resource_usage, m.current_progress, m.progress_percent,
           m.error_message, m.holds, m.last_checkpoint_uuid, m.checkpoint_count, m.spawned_at, m.updated_at,
           m.terminated_at, m.metadata, m.last_seq
      FROM intelligent_machines AS m
      LEFT JOIN projects AS p ON p.uuid = m.project_uuid
     ORDER BY m.spawned_at DESC, m.uuid DESC
     LIMIT %(limit)s
"""


class Machine(BaseModel):
    """One row as a client gets it."""

    uuid: UUID
    machine_type: str
    status: str
    phase: str
    outcome: str | None
    exit_code: int | None
    project_uuid: UUID
    project: str | None
    parent_checkpoint_uuid: UUID | None
    vm_id: str | None
    hub_vm_id: str | None
    hypervisor: str | None
    node: str | None
    epoch: int
    original_prompt: str
    greediness: Decimal | None
    file_modifications: dict[str, Any]
    resource_constraints: dict[str, Any]
    resource_usage: dict[str, Any]
    current_progress: str | None
    progress_percent: int | None
    error_message: str | None
    holds: list[Any]
    last_checkpoint_uuid: UUID | None
    checkpoint_count: int
    spawned_at: datetime
    updated_at: datetime
    terminated_at: datetime | None
    metadata: dict[str, Any]
    last_seq: int


class Page(BaseModel):
    """A page of rows."""

    items: list[Machine]
    next: str | None


def create_app(dsn: str) -> FastAPI:
    pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
        dsn, min_size=8, max_size=8, open=False, kwargs={"autocommit": True, "row_factory": dict_row}
    )

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncGenerator[None]:
        del app
        async with pool:
            yield

    app = FastAPI(lifespan=opened)

    @app.get("/api/v1/machines", response_model=Page)
    async def machines(limit: int = 50) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]  # the route holds it
        async with pool.connection() as connection:
            rows = await (await connection.execute(PAGE, {"limit": limit})).fetchall()
        return {"items": rows, "next": str(rows[-1]["uuid"])}

    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(os.environ["DATABASE_URL"]),
        port=int(os.environ["AUTOVIBE_QUERY_PORT"]),
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_level="warning",
    )
