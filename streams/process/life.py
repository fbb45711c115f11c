"""What every long-lived process of ours does: logs, signals, a new start."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

import structlog

from turnstream.schemas.unexpected import allow_text, described
from turnstream.streams.process.log_output import guard_output

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict


def log_as_json(level: str, *, exception_text: bool = False) -> None:
    """Write one JSON object a line to standard error: ours, and warnings of libraries.

    From here on no write to standard output or error raises (`log_output`). A traceback is logged
    as `error_class` and `frames`; the exception's text only where `exception_text` allows it.
    """
    guard_output()
    allow_text(allowed=exception_text)
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            _describe_exception,
            _as_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _as_json,
            ],
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
                _describe_exception,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


_renderer = structlog.processors.JSONRenderer(ensure_ascii=False)


def _as_json(logger: object, method: str, event: EventDict) -> str | bytes:
    """Return the line; of values that JSON cannot hold, return only their names."""
    try:
        return _renderer(logger, method, event)
    except Exception as error:  # noqa: BLE001  a foreign value may raise anything as it is written
        names = [str(name) for name in event]
        known = {"event": str(event.get("event", ""))[:200], "level": str(event.get("level", ""))}
        return json.dumps({**known, "unwritable": names, "error_class": type(error).__name__})


def _describe_exception(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by fields without the exception's text (a structlog processor)."""
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event.update(described(error))
    return event


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call `stop` at the first SIGTERM or SIGINT; the second one ends the process as usual."""
    loop = asyncio.get_running_loop()

    def heard(number: signal.Signals) -> None:
        for handled in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(handled)
        stop()  # first: nothing that goes wrong below may keep the process
        structlog.get_logger(__name__).info("stop_signal", signal=number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard, number)


def begin_anew() -> None:
    """Replace this process by a new one with the same command, process id and log.

    May be called from any thread. Its connections are cut, so that peers see at once that it is
    gone; a supervisor sees nothing.
    """
    sys.stderr.flush()
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606  our own command, as it was given
