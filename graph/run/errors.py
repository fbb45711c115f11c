"""Outcomes of the errors that a run raised."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

import structlog
from langgraph.errors import GraphRecursionError, UnknownInterruptError

from turnstream.graph.langgraph.node_exits import exit_behind
from turnstream.schemas.errors import (
    FencedError,
    GraphError,
    GraphUnsupportedError,
    InvalidRequestError,
    RecordTooLargeError,
    StepLimitError,
    TurnError,
    TurnstreamError,
)
from turnstream.schemas.records.results import Outcome
from turnstream.schemas.text import clean_text
from turnstream.schemas.unexpected import class_name, described, note

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger(__name__)

MESSAGE_CHARS_MAX = 2000
"""Of an error's message in an outcome."""


def outcome_of(error: BaseException, *, input_refused: bool = False, **ids: object) -> Outcome:
    """Return what a turn ends with when its run raised `error`.

    Errors of brought code are logged with `ids` and their frames. A client gets the class and the
    id of that log line, because the text may hold passwords or other users' data. `input_refused`:
    nothing but the turn's own input had been applied. Errors of the attempt itself (`FencedError`,
    the database, the log) are raised again: the next owner finds out what they mean for the turn.
    """
    if isinstance(error, UnknownInterruptError):
        return Outcome(status="rejected", code="unknown_interrupt", message=_text(error))
    named = _named(error, ids, input_refused=input_refused)
    return Outcome(
        status="failed", code=named.code, retryable=named.retryable, message=_text(named)
    )


def drop_frames(error: BaseException | None) -> None:
    """Clear the frames of an error that ended a run, and those of its causes.

    The frames hold the tasks that hold the error. This circle would keep all objects of the turn
    until a full garbage collection. Log what is needed of the frames before.
    """
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        one.__traceback__ = None
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions


def _named(
    error: BaseException, ids: Mapping[str, object], *, input_refused: bool
) -> TurnstreamError:
    if isinstance(error, TurnError | RecordTooLargeError | InvalidRequestError):
        return error
    if isinstance(error, FencedError | TurnstreamError):
        raise error
    if isinstance(error, GraphRecursionError):
        return StepLimitError("The graph did not end within its recursion_limit.")
    if input_refused:
        error_id = os.urandom(4).hex()
        log.info("input_refused", error_id=error_id, **ids, **described(error))
        return GraphError(
            f"The graph refuses the input: {_class_of(error)} (error id {error_id})",
            code="invalid_input",
        )
    if isinstance(error, AttributeError) and "_put_checkpoint_fut" in str(error):
        return GraphUnsupportedError(
            "A node runs a graph compiled with checkpointer=False; compile it without that"
            " argument, or add it to its parent as a node."
        )
    return GraphError(f"{_class_of(error)} (error id {note('graph', error, **ids)})")


def _class_of(error: BaseException) -> str:
    return class_name(exit_behind(error))


def _text(error: BaseException) -> str:
    return clean_text(str(error))[:MESSAGE_CHARS_MAX]
