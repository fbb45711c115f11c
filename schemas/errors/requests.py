"""What a caller asked for cannot be done."""

from __future__ import annotations

from turnstream.schemas.errors.root import TurnstreamError


class InvalidRequestError(TurnstreamError):
    """The request has a field that cannot be right; `field` names it."""

    code = "invalid_request"
    status = 422


class TooLargeError(InvalidRequestError):
    """A text or a JSON value of the request is larger than allowed; `field` names it."""

    code = "too_large"
    status = 413


class UnsupportedMediaTypeError(TurnstreamError):
    """The body is not declared as JSON."""

    code = "unsupported_media_type"
    status = 415


class NotServedError(TurnstreamError):
    """A LangGraph SDK has this route, but this edge does not serve it."""

    code = "not_served"
    status = 501


class UnauthorizedError(TurnstreamError):
    """There is no valid token."""

    code = "unauthorized"
    status = 401


class ForbiddenError(TurnstreamError):
    """The token does not allow this."""

    code = "forbidden"
    status = 403


class NotFoundError(TurnstreamError):
    """The object does not exist, or belongs to another tenant."""

    code = "not_found"
    status = 404


class ConflictError(TurnstreamError):
    """The thread is in a state that does not allow this."""

    code = "conflict"
    status = 409


class TooManyRequestsError(TurnstreamError):
    """A limit is reached; try again later."""

    code = "too_many_requests"
    retryable = True
    status = 429
