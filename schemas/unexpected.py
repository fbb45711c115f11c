"""Unexpected errors: each gets an id, a count by place and one log line.

A handler of one item (record, request, frame, response, turn, tool call, task) that catches
`Exception` calls `note` and ends that item alone. Clients see the error's class and id; the log
line with the same id has the frames. An exception's text may hold user data or passwords, so it is
logged only where `allow_text` permits it (`TURNSTREAM_LOG_EXCEPTION_TEXT`).
"""

from __future__ import annotations

import os
import traceback
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from turnstream.schemas.text import clean_text

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger(__name__)

FRAMES_MAX = 40
CHAIN_MAX = 8
NAME_CHARS_MAX = 200
_counts: Counter[str] = Counter()
_text_allowed = False


def allow_text(*, allowed: bool) -> None:
    """Decide for this process whether the text of exceptions is logged."""
    global _text_allowed  # noqa: PLW0603  one log per process, one switch
    _text_allowed = allowed


def note(place: str, error: BaseException, **ids: object) -> str:
    """Count and log an unexpected error; return its id, 8 hexadecimal digits.

    `place` names the handler in a few lower-case words (`intake`, `edge_request`); it is the label
    of `turnstream_unexpected_errors_total`. `ids` are logged as fields, for example `turn_id`.
    """
    _counts[place] += 1
    error_id = os.urandom(4).hex()
    log.error("unexpected_error", place=place, error_id=error_id, **ids, **described(error))
    return error_id


def described(error: BaseException) -> dict[str, object]:
    """Return an exception as log fields: `error_class`, `frames`, and `error` where allowed.

    `frames` has the chain of causes in the order in which Python prints it, as `file:line
    function` strings, a class name before the frames of each exception but the last.
    """
    chain: list[BaseException] = [error]
    while len(chain) < CHAIN_MAX and (cause := _cause(chain[-1])) is not None:
        chain.append(cause)
    frames: list[str] = []
    for one in reversed(chain):
        if one is not error:
            frames.append(f"caused by {type(one).__name__}")
        frames.extend(
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(one.__traceback__, limit=-FRAMES_MAX)
        )
    fields: dict[str, object] = {"error_class": class_name(error), "frames": frames}
    if _text_allowed:
        fields["error"] = _text(error)
    return fields


def class_name(error: BaseException) -> str:
    """Return the name of an exception's class, as clients may see it: no text of the exception."""
    return clean_text(type(error).__name__)[:NAME_CHARS_MAX]


def counts() -> Mapping[str, int]:
    """Return how many unexpected errors each place has had since the process started."""
    return _counts


def _cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  a foreign __str__ may raise as well
        return "(its text cannot be read)"
