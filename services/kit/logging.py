"""Log lines: JSON for machines, columns for people; one line an event, `noun.past_verb` with the domain's keys."""

import logging
import os
import sys
from typing import TextIO, cast

import orjson
import structlog
from structlog.typing import Processor

_QUIET = {"nats": logging.CRITICAL, "faststream": logging.WARNING, "httpx": logging.WARNING, "asyncio": logging.WARNING}
"""nats-py reports through its error callback, which `services.kit.client` logs."""


def configure(
    service: str,
    level: str = "info",
    style: str = "auto",
    stream: TextIO | None = None,
) -> None:
    """Set up logging of the whole process, the libraries' included. Nothing is logged of local variables.

    Args:
        style: auto (console on a terminal, else JSON), json or console.
    """
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[_service(service), *_rendering(style, out)]
        )
    )
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(max(quiet, number))


def _rendering(style: str, out: TextIO) -> list[Processor]:
    drop = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    console = style == "console" or (style == "auto" and out.isatty())
    if console:
        colors = out.isatty() and not os.environ.get("NO_COLOR")
        renderer = structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=28
        )
        return [drop, cast("Processor", renderer)]
    return [drop, structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]


def _json(value: object, **_options: object) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _service(name: str) -> Processor:
    def add(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("service", name)
        return event

    return add
