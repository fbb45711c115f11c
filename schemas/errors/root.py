"""The root of all errors.

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
