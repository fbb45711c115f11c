"""What the command line and the local stack say."""

from __future__ import annotations

from turnstream.schemas.errors.root import TurnstreamError


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
    """The demo did not see what it shows."""

    code = "demo"
