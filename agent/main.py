"""Where an agent's own process begins: its spec comes as text, never by arguments or environment."""

import asyncio
import gc
import logging
import os
import sys

import structlog
from pydantic import ValidationError

from agent import linux
from agent.options import Options
from agent.supervisor import Supervisor
from events.agent import AgentSpec

log = structlog.get_logger()


def run(spec_json: str, options_json: str = "{}") -> int:
    """Supervise one incarnation to its end; returns the process's exit code."""
    gc.enable()
    os.umask(0o022)
    try:
        spec = AgentSpec.model_validate_json(spec_json)
        options = Options.model_validate_json(options_json)
    except ValidationError as reason:
        log.error(  # noqa: TRY400 -- a traceback would show the spec, and with it the credential
            "agent.refused", reason=str(reason.errors(include_input=False, include_url=False))
        )
        return 2
    structlog.contextvars.bind_contextvars(project=spec.project, machine_id=str(spec.machine_id), epoch=spec.epoch)
    linux.adopt_orphans()
    return asyncio.run(_supervise(spec, options))


def configure_logging() -> None:
    """One JSON object a line, on standard error; from AUTOVIBE_LOG_LEVEL on, `info` unless told."""
    level = logging.getLevelNamesMapping().get(os.environ.get("AUTOVIBE_LOG_LEVEL", "").upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def _supervise(spec: AgentSpec, options: Options) -> int:
    return await Supervisor(spec, options).run()


if __name__ == "__main__":
    configure_logging()
    sys.exit(run(sys.stdin.read()))
