"""Every error of the project, with a code that stays.

`code` goes into records, problem bodies and logs; `retryable` says whether the same call may work
later; `status` is the HTTP status an edge answers with, and a WebSocket closes with 4000 + status.
An exception's docstring is its default message.
"""

from __future__ import annotations

from typing import ClassVar


class TurnstreamError(Exception):
    """Something went wrong inside turnstream."""

    code: str = "internal"
    retryable: ClassVar[bool] = False
    status: ClassVar[int] = 500

    def __init__(self, message: str = "", *, code: str = "", field: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])
        self.code = code or type(self).code
        self.field = field

    @property
    def close_code(self) -> int:
        """Return the WebSocket close code that says the same."""
        return 4000 + self.status


class ConfigurationError(TurnstreamError):
    """A setting is missing or wrong."""

    code = "configuration"


class InvalidRequestError(TurnstreamError):
    """The request has a field that cannot be right; `field` names it."""

    code = "invalid_request"
    status = 422


class TooLargeError(InvalidRequestError):
    """A text or a JSON value of the request is larger than allowed; `field` names it."""

    code = "too_large"
    status = 413


class UndecodableError(TurnstreamError):
    """The bytes are not a record that we know how to read."""

    code = "undecodable"
    status = 400


class UnknownSchemaError(UndecodableError):
    """The record names a schema that the registry does not know."""

    code = "unknown_schema"


class BatchUnreadableError(UndecodableError):
    """A batch of records cannot be read; its dead letter names the offsets and the codec.

    Codes: `corrupt_batch`, `bad_crc`, `unknown_codec`, `unsupported_format`, and `batch_too_large`
    for one that decompresses to more than `TURNSTREAM_BATCH_BYTES_MAX` bytes.
    """

    code = "corrupt_batch"


class RecordTooLargeError(TurnstreamError):
    """The record is larger than its topic allows."""

    code = "record_too_large"
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
    """There is no such thing, or it belongs to somebody else."""

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


class UnavailableError(TurnstreamError):
    """A part that this needs does not answer."""

    code = "unavailable"
    retryable = True
    status = 503


class OverloadedError(UnavailableError):
    """As many turns are open as are taken on; try again later."""

    code = "overloaded"


class KafkaUnavailableError(UnavailableError):
    """Kafka does not answer, or refuses the record."""

    code = "kafka_unavailable"


class ProduceRefusedError(KafkaUnavailableError):
    """The broker refused a batch, so the attempts with a record in it are over."""

    code = "produce_refused"


class InputLostError(TurnstreamError):
    """Commands are gone from an input topic before they were read; somebody has to decide."""

    code = "input_lost"


class DatabaseUnavailableError(UnavailableError):
    """Postgres does not answer."""

    code = "database_unavailable"


class FencedError(TurnstreamError):
    """The thread's epoch, or the store's timeline, has moved on: stop without a word."""

    code = "fenced"


class CancelAheadError(TurnstreamError):
    """The turn was told to stop before this outcome could be stored; `cause` says why."""

    code = "cancel_ahead"

    def __init__(self, cause: str) -> None:
        super().__init__()
        self.cause = cause


class TurnError(TurnstreamError):
    """A turn cannot go on; becomes `TurnFailed` with this code."""

    code = "turn_failed"


class OutputOverrunError(TurnError):
    """The turn says more than the log takes."""

    code = "output_overrun"


class GraphError(TurnError):
    """The graph raised an error."""

    code = "graph_error"


class GraphUnsupportedError(GraphError):
    """The graph uses something that cannot run here; the message says what to change."""

    code = "graph_unsupported"


class TurnTimeoutError(TurnError):
    """The turn took longer than a turn may, from its first claim on."""

    code = "turn_timeout"
    status = 504


class StepTimeoutError(TurnError):
    """A step of the graph took longer than a step may."""

    code = "step_timeout"
    retryable = True
    status = 504


class GraphBlockedError(TurnError):
    """The graph blocked its worker's event loop for too long; blocking code belongs in a thread."""

    code = "graph_blocked"
    status = 504


class PoisonedError(TurnError):
    """The turn was parked: attempts at it kept ending with their worker, or broke."""

    code = "poisoned"


class UnstorableStateError(TurnError):
    """The graph's state cannot be stored."""

    code = "state_unstorable"


class CatalogError(ConfigurationError):
    """langgraph.json, or a graph that it names, cannot be loaded."""

    code = "graph_catalog"


class ModelError(TurnError):
    """The model server did not give an answer."""

    code = "model_error"


class ModelUnreachableError(ModelError):
    """The model server could not be reached, or hung up before it answered."""

    code = "model_unreachable"
    retryable = True
    status = 503


class ModelOverloadedError(ModelError):
    """The model server has no room or broke; the code is `model_http_<status>`."""

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
    """The model server accepted the request and then said nothing for too long."""

    code = "model_stalled"
    retryable = True
    status = 504


class ModelFirstTokenTimeoutError(ModelStalledError):
    """The model server took too long to say its first token."""

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


class StepLimitError(TurnError):
    """The agent used all its model calls and the model still asks for tools."""

    code = "step_limit"


class ToolError(TurnstreamError):
    """The tool did not return a result; the message is for the model."""

    code = "tool_error"


class ToolArgumentsError(ToolError):
    """The tool cannot be called with these arguments."""

    code = "tool_arguments"


class ToolUnknownError(ToolError):
    """There is no such tool."""

    code = "tool_unknown"


class ToolTimeoutError(ToolError):
    """The tool took too long."""

    code = "tool_timeout"


class ToolIndeterminateError(ToolError):
    """It is not known whether the tool took effect; it was not called again."""

    code = "tool_indeterminate"


class ToolCallsError(ToolError):
    """The model asked for too many tools at once."""

    code = "tool_calls_max"


class StackError(TurnstreamError):
    """The local stack cannot do this."""

    code = "local_stack"


class StackRunningError(StackError):
    """A local stack already runs on this folder; `pid` is its supervisor's."""

    code = "local_stack_running"

    def __init__(self, message: str = "", *, pid: int = 0) -> None:
        super().__init__(message)
        self.pid = pid


class PartError(StackError):
    """A part of the local stack did not start; `tail` has the last lines of its log."""

    code = "local_stack_part"

    def __init__(self, *, part: str, cause: str, tail: tuple[str, ...] = (), log: str = "") -> None:
        super().__init__(f"{part}: {cause}")
        self.part = part
        self.cause = cause
        self.tail = tail
        self.log = log


class CommandError(TurnstreamError):
    """A command that the protocol answers with an error message of its own."""

    code = "invalid_argument"
    status = 400


class ChatError(TurnstreamError):
    """The edge refused what the chat asked for."""

    code = "refused"


class DemoError(TurnstreamError):
    """The demo saw something other than it promises."""

    code = "demo"


class TopicChangedError(UnavailableError):
    """The topic was made anew while it was read."""

    code = "topic_changed"


class RegistryUnavailableError(UnavailableError):
    """The schema registry does not answer."""

    code = "registry_unavailable"
