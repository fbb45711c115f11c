"""Keeps `SystemExit` and its kind inside the turn whose graph raises it.

In asyncio a `SystemExit` or `KeyboardInterrupt` of any task ends the loop, and LangGraph treats
only an `Exception` as an error of a node. So every task that a brought graph starts runs its code
through `_Contained`, which raises an `Exception` instead. All other tasks only look at a context
variable when they start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from turnstream.schemas.unexpected import class_name

if TYPE_CHECKING:
    from contextvars import Context

_INSIDE: ContextVar[bool] = ContextVar("turnstream_brought_code", default=False)


class _NodeExitError(RuntimeError):
    """Brought code raised something that would have ended more than its turn; see `__cause__`.

    A `RuntimeError`, because LangGraph's default retry policy does not repeat those.
    """


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine whose exits become errors. No `async def`: one that never starts would warn."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: object) -> Any:
        try:
            return self._inner.send(value)
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:
            raise contained(error) from error

    def throw(self, *error: Any) -> Any:
        try:
            return self._inner.throw(*error)
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as raised:
            raise contained(raised) from raised
        finally:
            error = ()  # what comes back holds this frame: a circle

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        return (yield from self._inner.__await__())


def contained(error: BaseException) -> Exception:
    """Return the error that stands for an exit; raise it `from` the exit."""
    return _NodeExitError(f"the graph's code raised {class_name(error)}")


def exit_behind(error: BaseException) -> BaseException:
    """Return the exit that an error of `contained` stands for, else the error itself."""
    if isinstance(error, _NodeExitError) and error.__cause__ is not None:
        return error.__cause__
    return error


def enter() -> None:
    """Mark what runs in this context, tasks started from it included, as brought code."""
    loop = asyncio.get_running_loop()
    if loop.get_task_factory() is not _task:
        loop.set_task_factory(_task)
    _INSIDE.set(True)


def _task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Any,
    *,
    context: Context | None = None,
    **rest: Any,
) -> asyncio.Task[Any]:
    inside = _INSIDE.get() if context is None else context.get(_INSIDE, False)
    if inside and asyncio.iscoroutine(coroutine):
        coroutine = _Contained(coroutine)
    return asyncio.Task(coroutine, loop=loop, context=context, **rest)
