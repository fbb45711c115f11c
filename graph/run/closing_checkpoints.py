"""The checkpoints that end a turn which was cancelled or failed.

They hold what had been said, as messages, and leave nothing to run, so that the turn's pending
writes are never read. They are collected here and written together with the outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.constants import END
from langgraph.types import StateUpdate

from turnstream.graph.langgraph.open_head import accepts, add_to_open_head
from turnstream.graph.run.collecting_saver import CollectingSaver
from turnstream.graph.run.stopped_calls import closing_id
from turnstream.graph.tools.recorded_calls import STOPPED
from turnstream.schemas.errors import TurnstreamError
from turnstream.schemas.text import clean_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

    from turnstream.graph.langgraph.factories import AnyPregel
    from turnstream.graph.ports.commits import SaverCall
    from turnstream.schemas.fold.messages import Message

NOT_FINISHED = "The call was not finished: {why}."
REWIND_STEPS_MAX = 1000
"""Checkpoints that are looked at for the last one whose state the graph's schema accepts."""

_END = [StateUpdate(None, END)]
_NULL_TASK = "00000000-0000-0000-0000-000000000000"


async def closing_calls(
    graph: AnyPregel,
    saver: BaseCheckpointSaver[str],
    config: RunnableConfig,
    *,
    turn_id: str,
    given: object,
    said: Iterable[Message],
    why: str,
    unknown: Collection[str] = (),
    open_ended: bool = False,
) -> tuple[SaverCall, ...]:
    """Return the saver calls of a turn's closing checkpoints.

    `given` is the turn's input (None for a resume); it is added if no checkpoint of this turn has
    it. `said` are the turn's messages in order. Those that the state lacks are added under their
    own ids. Open tool calls are answered with an error that contains `why`. Those whose ids are in
    `unknown` may have taken effect or not, and their answer says so.

    `open_ended`: a node failed, and the state still names it in `next`. If the graph's own schema
    refuses the head, the last checkpoint that it accepts becomes the head again.
    """
    buffer = CollectingSaver(saver)
    closing = graph.copy(update={"checkpointer": buffer})
    head = await buffer.aget_tuple(config)
    applied = head is not None and head.metadata.get("run_id") == turn_id
    if head is not None and not await accepts(closing, head):
        return await _rewound(closing, buffer, head)
    update = dict(given) if isinstance(given, dict) and not applied else {}
    added: list[BaseMessage] = []
    if "messages" in graph.channels:
        known = head if applied or not update else None
        added = _added(known, said, turn_id=turn_id, why=why, unknown=unknown)
    if open_ended and applied and head is not None and head.metadata.get("source") != "input":
        if not added:
            return ()
        if await add_to_open_head(closing, buffer, head, added):
            return buffer.taken()
    if added:
        first = update.get("messages", [])
        update["messages"] = [*(first if isinstance(first, list) else [first]), *added]
    ways = [[[StateUpdate(update, "__start__")], _END]] if update else []
    for way in (*ways, [_END]):
        try:
            await closing.abulk_update_state(config, way)
        except TurnstreamError:
            raise
        except Exception:  # noqa: BLE001  the graph's own reducers and routes run here
            buffer.calls.clear()
        else:
            return buffer.taken()
    return () if head is None else await _rewound(closing, buffer, head)


async def _rewound(
    closing: AnyPregel, buffer: CollectingSaver, head: CheckpointTuple
) -> tuple[SaverCall, ...]:
    """Return the calls that make the last checkpoint with an acceptable state the head again.

    What tasks wrote behind it is left out.
    """
    at: RunnableConfig | None = head.config
    buffer.calls.clear()
    buffer.hide_writes = True
    for _ in range(REWIND_STEPS_MAX):
        found = await buffer.aget_tuple(at) if at is not None else None
        if found is None:
            break
        if await accepts(closing, found):
            await closing.abulk_update_state(found.config, [_END])
            return buffer.taken()
        at = found.parent_config
    return ()


def _added(
    head: CheckpointTuple | None,
    said: Iterable[Message],
    *,
    turn_id: str,
    why: str,
    unknown: Collection[str],
) -> list[BaseMessage]:
    """Return messages of finished tasks, answers to open tool calls, and what else was said."""
    stored = head.checkpoint["channel_values"].get("messages") if head is not None else None
    known = [message for message in stored or () if isinstance(message, BaseMessage)]
    added: list[BaseMessage] = []
    for task_id, channel, value in (head.pending_writes or ()) if head is not None else ():
        if channel == "messages" and task_id != _NULL_TASK:
            values = value if isinstance(value, list) else [value]
            added += [message for message in values if isinstance(message, BaseMessage)]
    calls = {
        call["id"]: call["name"]
        for message in (*known, *added)
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    }
    answered = {m.tool_call_id for m in (*known, *added) if isinstance(m, ToolMessage)}
    added += [
        ToolMessage(
            (STOPPED if call_id in unknown else NOT_FINISHED).format(name=name, why=why),
            tool_call_id=call_id,
            name=name,
            status="error",
            id=closing_id(turn_id, call_id or ""),
        )
        for call_id, name in calls.items()
        if call_id not in answered
    ]
    ids = {message.id for message in (*known, *added)}
    added += [
        AIMessage(
            clean_text(message.text),
            id=message.message_id,
            response_metadata={"finish_reason": why},
        )
        for message in said
        if message.role == "assistant" and message.message_id not in ids and message.text
    ]
    return added
