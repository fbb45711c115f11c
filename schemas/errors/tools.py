"""Tools and their calls."""

from __future__ import annotations

from turnstream.schemas.errors.root import TurnstreamError


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
