"""The same turns on LangGraph itself, in process, with its own saver."""

from __future__ import annotations

import dataclasses
import importlib
import uuid
from typing import TYPE_CHECKING, Any

from cases import MODES, Resume
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from played import Item, Played
from pydantic import BaseModel

if TYPE_CHECKING:
    from cases import Case


def plain(value: Any) -> Any:
    """Return a value as JSON has it: messages and models as their fields."""
    if isinstance(value, (BaseMessage, BaseModel)):
        return plain(value.model_dump())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


async def play(case: Case, *, subgraphs: bool, modes: tuple[str, ...] = MODES) -> list[Played]:
    """Run the turns of a case; return what each one showed and left."""
    graph = getattr(importlib.import_module(case.module), case.graph)
    graph = graph.copy(update={"checkpointer": InMemorySaver()})
    thread = {"configurable": {"thread_id": str(uuid.uuid4())}}
    turns = []
    for turn in case.turns:
        run_id = str(uuid.uuid4())
        config = {**thread, **case.config, "metadata": {"run_id": run_id}}
        given = turn
        if isinstance(turn, Resume):
            asked = (await graph.aget_state(thread)).interrupts
            given = Command(resume={one.id: turn.value for one in asked})
        items = []
        asked = ["messages" if mode == "messages-tuple" else mode for mode in modes]
        stream = graph.astream(given, config, stream_mode=asked, subgraphs=subgraphs)
        async for ns, mode, data in stream if subgraphs else _rooted(stream):
            items.append(Item("|".join((mode, *ns)), plain(data)))
        state = await graph.aget_state(thread)
        history = [one async for one in graph.aget_state_history(thread)]
        turns.append(Played(items, _state(state), [_state(one) for one in history]))
    return turns


async def _rooted(stream: Any) -> Any:
    async for mode, data in stream:
        yield (), mode, data


def _state(state: Any) -> dict[str, Any]:
    return {
        "values": plain(state.values),
        "next": list(state.next),
        "metadata": plain(state.metadata),
        "interrupts": _asked(state.interrupts),
        "tasks": [
            {
                "name": task.name,
                "error": plain(task.error),
                "interrupts": _asked(task.interrupts),
                "result": plain(task.result),
            }
            for task in state.tasks
        ],
    }


def _asked(interrupts: Any) -> list[dict[str, Any]]:
    """Return questions as LangGraph's server has them in a state: no schema where there is none."""
    found = plain(interrupts)
    for one in found:
        if one["response_schema"] is None:
            del one["response_schema"]
    return found
