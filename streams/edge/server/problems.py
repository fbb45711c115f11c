"""Errors as HTTP answers: `application/problem+json` (RFC 9457) with a stable `code`.

Every error that leaves the edge goes through here. For an unexpected one a client reads the code
`internal`, the error's class, and an id that finds its stack in the log.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from turnstream.schemas import unexpected
from turnstream.schemas.errors import TooManyRequestsError, TurnstreamError
from turnstream.schemas.text import clean_text

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

problem_bytes = msgspec.json.Encoder().encode


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem body.

    `field` names the wrong part of the request; `error_id` finds an unexpected error in the log.
    """

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str = ""
    field: str = ""
    error_id: str = ""
    retryable: bool = False


class ProblemResponse(Response):
    """A response with a problem body."""

    media_type = "application/problem+json"

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(problem_bytes(problem), status_code=problem.status, headers=headers)


def problem_of(error: TurnstreamError) -> Problem:
    """Return the problem body of an error."""
    return Problem(
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        code=error.code,
        detail=clean_text(str(error)),
        field=error.field,
        retryable=error.retryable,
    )


def problem_answer(error: TurnstreamError) -> Response:
    """Return the answer to a request that an error ended."""
    headers: dict[str, str] = {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooManyRequestsError) or error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    return ProblemResponse(problem_of(error), headers)


async def _ours(_request: Request, error: Exception) -> Response:
    assert isinstance(error, TurnstreamError)  # noqa: S101  registered for this type
    return problem_answer(error)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for this type
    first: dict[str, object] = dict(next(iter(error.errors()), {}))
    malformed = first.get("type") == "json_invalid"
    loc = first.get("loc")
    loc = loc if isinstance(loc, tuple) else ()
    status = HTTPStatus.BAD_REQUEST if malformed else HTTPStatus.UNPROCESSABLE_ENTITY
    return ProblemResponse(
        Problem(
            title=status.phrase,
            status=status,
            code="invalid_json" if malformed else "invalid_request",
            detail=clean_text(str(first.get("msg", ""))),
            field="body" if malformed else clean_text(".".join(map(str, loc))),
        )
    )


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this type
    phrase = HTTPStatus(error.status_code).phrase
    return ProblemResponse(
        Problem(
            title=phrase,
            status=error.status_code,
            code=phrase.lower().replace(" ", "_").replace("-", "_"),
            detail=clean_text(str(error.detail)),
        ),
        dict(error.headers or {}),
    )


def unexpected_problem(place: str, error: Exception, **ids: object) -> Problem:
    """Count and log an unexpected error; return its problem body."""
    error_id = unexpected.note(place, error, **ids)
    return Problem(
        title="Internal Server Error",
        status=500,
        code="internal",
        detail=unexpected_text(error, error_id),
        error_id=error_id,
        retryable=True,
    )


def unexpected_text(error: BaseException, error_id: str) -> str:
    """Return what a client reads of an unexpected error, without the error's own text."""
    return f"unexpected {type(error).__name__}; find it in the edge's log by the id {error_id}"


def install(app: FastAPI) -> None:
    """Make the app answer every error with a problem body."""
    app.add_exception_handler(TurnstreamError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
