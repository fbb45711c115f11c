"""How a failed command ends: one sentence on standard error, exit code 1."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

import typer

from turnstream.schemas.errors import TurnstreamError
from turnstream.streams.app.hiding import hidden

EXIT_FAILED = 1


def end(error: Exception) -> NoReturn:
    """Print what went wrong and exit; print nothing if the reader of our output has gone."""
    cause = _first(error)
    if isinstance(cause, BrokenPipeError):
        # the interpreter flushes standard output once more as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(EXIT_FAILED)
    typer.echo(_sentence(cause), err=True)
    sys.exit(EXIT_FAILED)


def _first(error: BaseException) -> BaseException:
    """Return the error itself; of several at once, the first that has a code."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    named = error.subgroup(TurnstreamError)
    return _first((named or error).exceptions[0])


def _sentence(error: BaseException) -> str:
    if isinstance(error, TurnstreamError):
        return f"error ({error.code}): {hidden(str(error))}"
    if isinstance(error, OSError):
        return f"error (system): {hidden(str(error))}"
    import structlog

    if structlog.is_configured():  # a process with a log: the text may hold user data
        from turnstream.schemas.unexpected import note

        error_id = note("process", error)
        return f"error (internal): {type(error).__name__}, error id {error_id} in the log"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    what = hidden(f"{type(error).__name__}: {error}")[:500]
    return f"error (internal): {what} ({frame.filename}:{frame.lineno}); please report it"
