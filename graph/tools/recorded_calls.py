"""A call of a tool takes effect once: what the ledger holds decides whether it is made.

Used by the built-in agent's tool node, and offered to graphs that people bring (`recorded.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
from langgraph.errors import GraphInterrupt

from turnstream.graph.values import to_json
from turnstream.schemas.tool_calls import call_digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from turnstream.graph.ports.tools import ToolCalls
    from turnstream.schemas.tool_calls import ToolCall

_log = structlog.get_logger(__name__)
_PULL, _PUSH = "__pregel_pull", "__pregel_push"  # langgraph has no public names for them

INTERRUPTED = (
    "It is not known whether {name} took effect: the call was interrupted, and was not made again."
)
ANOTHER = (
    "It is not known whether {name} took effect: an earlier call with other arguments stands in"
    " its place, and this one was not made."
)
TIMED_OUT = (
    "It is not known whether {name} took effect: it took longer than {seconds:g} s and may still"
    " be running."
)
FAILED = "It is not known whether {name} took effect: it failed in the middle ({why})."
STOPPED = "It is not known whether {name} took effect: it was stopped in the middle ({why})."


async def call_once(
    ledger: ToolCalls,
    call: ToolCall,
    *,
    honours_key: bool,
    run: Callable[[], Awaitable[Any]],
    find: Callable[[], Awaitable[Any]],
    unknown: Callable[[str], Any],
) -> Any:
    """Return the call's result: the recorded one, or that of `run`, recorded then (T1 to T3).

    `find` returns the result of an earlier call, or None. `unknown` makes a result of the reason
    why there is none. An error of `run` leaves the call as begun: it may have taken effect. A
    question (`interrupt()`) in `run` is asked, and the call is made again with the answer.
    """
    known = await ledger.start(call)
    if known.state == "done":
        return known.result
    if known.state == "other":
        return unknown(ANOTHER.format(name=call.name))
    if known.state == "started" and not honours_key:
        result = await _found(call, find)
        if result is None:
            result = unknown(INTERRUPTED.format(name=call.name))
    else:
        result = await _run(ledger, call, run)
    await ledger.finish(call, result)
    return result


async def _run(ledger: ToolCalls, call: ToolCall, run: Callable[[], Awaitable[Any]]) -> Any:
    place = (call.path, call.ordinal)
    ledger.open[place] = call
    try:
        result = await run()
    except GraphInterrupt:
        del ledger.open[place]
        await ledger.ask(call)
        raise
    except Exception:
        del ledger.open[place]
        raise
    del ledger.open[place]  # a cancelled call stays: the end of the turn reports it
    return result


def digest_of(name: str, arguments: Any) -> bytes:
    """Return the digest of a call; the order in which arguments come does not count."""
    return call_digest(name, to_json(_sorted(arguments)))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


async def _found(call: ToolCall, find: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await find()
    except Exception:  # noqa: BLE001  a query that fails has found nothing
        _log.warning("tool_query_failed", tool=call.name, exc_info=True)
        return None


def place_of(namespace: str, path: str, metadata: Mapping[str, Any]) -> str:
    """Return the place, for idempotency keys, of the task with this namespace and path.

    A task's id goes back to a checkpoint's, which is another one when a restored database has lost
    it. The place of a task of the root graph is its step and node, so that a call made again after
    a restore has its key again; deeper tasks go by their path.
    """
    kind, where = (*metadata.get("langgraph_path", ()), "", "")[:2]
    if "|" in namespace or kind not in (_PULL, _PUSH) or not isinstance(where, (str, int)):
        return path
    return f"{metadata.get('langgraph_step')}:{metadata.get('langgraph_node')}:{where}"
