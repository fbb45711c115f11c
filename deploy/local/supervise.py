"""The life of `turnstream up`: start a stack, mend it, stop it when a signal asks."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from turnstream.deploy.local.stack import LocalStack

_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CHECK_EVERY_S = 0.25


class _Asked(BaseException):
    """A signal asks to stop; raised wherever the main thread is, which may be a download."""


def supervise(stack: LocalStack, *, when_ready: Callable[[], None]) -> None:
    """Run a stack until a signal asks to stop; a second signal kills what has not ended by then.

    Returns when everything that it started has gone. Raises what `LocalStack.start` raises. Call
    it from the main thread.
    """
    hurry = threading.Event()
    with _signals(hurry):
        try:
            stack.start()
            when_ready()
            while True:
                stack.mend()
                threading.Event().wait(_CHECK_EVERY_S)
        except _Asked:
            pass
        finally:
            stack.stop(hurry=hurry.is_set)


@contextmanager
def _signals(hurry: threading.Event) -> Iterator[None]:
    asked = False

    def handle(_: int, __: FrameType | None) -> None:
        nonlocal asked
        if asked:
            hurry.set()
        else:
            asked = True
            raise _Asked

    before = {number: signal.signal(number, handle) for number in _ASKING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
