"""What model servers answer instead of an answer."""

from __future__ import annotations

from turnstream.schemas.errors.turns import TurnError


class ModelError(TurnError):
    """The model server did not give an answer."""

    code = "model_error"


class ModelUnreachableError(ModelError):
    """The model server could not be reached, or hung up before it answered."""

    code = "model_unreachable"
    retryable = True
    status = 503


class ModelOverloadedError(ModelError):
    """The model server is overloaded or failed; the code is `model_http_<status>`."""

    code = "model_http_503"
    retryable = True
    status = 503

    def __init__(self, message: str = "", *, code: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class ModelRefusedError(ModelError):
    """The model server refused the request; the code is `model_http_<status>`."""

    code = "model_http_400"
    status = 502


class ModelDeclinedError(ModelError):
    """The model, or a filter beside it, refused to answer."""

    code = "model_refused"
    status = 422


class ModelContextError(ModelRefusedError):
    """The conversation is longer than the model's context."""

    code = "model_context_length"
    status = 413


class ModelStalledError(ModelError):
    """The model server accepted the request and then sent nothing for too long."""

    code = "model_stalled"
    retryable = True
    status = 504


class ModelFirstTokenTimeoutError(ModelStalledError):
    """The model server took too long to send its first token."""

    code = "model_first_token_timeout"


class ModelTokenGapTimeoutError(ModelStalledError):
    """The model server stopped in the middle of its answer, without ending it."""

    code = "model_token_gap_timeout"


class ModelStreamCutError(ModelError):
    """The model server's answer ended in the middle."""

    code = "model_stream_cut"
    retryable = True
    status = 502


class ModelBadResponseError(ModelError):
    """The model server sent something that is not an answer."""

    code = "model_bad_response"
    status = 502
