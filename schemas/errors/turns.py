"""What ends a turn, or an attempt at it."""

from __future__ import annotations

from turnstream.schemas.errors.root import ConfigurationError, TurnstreamError


class CancelAheadError(TurnstreamError):
    """The turn was cancelled before this outcome was stored; `cause` has the reason."""

    code = "cancel_ahead"

    def __init__(self, cause: str) -> None:
        super().__init__()
        self.cause = cause


class TurnError(TurnstreamError):
    """The turn cannot continue; it ends as `TurnFailed` with this code."""

    code = "turn_failed"


class OutputOverrunError(TurnError):
    """The turn emits more than Kafka or its limits allow."""

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
    """The turn was parked: its attempts ended with a crash of their worker, or raised errors."""

    code = "poisoned"


class UnstorableStateError(TurnError):
    """The graph's state cannot be stored."""

    code = "state_unstorable"


class CatalogError(ConfigurationError):
    """langgraph.json, or a graph that it names, cannot be loaded."""

    code = "graph_catalog"


class StepLimitError(TurnError):
    """The agent used all its model calls and the model still asks for tools."""

    code = "step_limit"
