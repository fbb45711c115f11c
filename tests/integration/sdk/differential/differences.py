"""Every difference between turnstream's streams and LangGraph's that is meant.

Each has a row of the same name in docs/graphs.md, with its reason; what it names is left out on
both sides before they are compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from played import Item

RUN_METADATA = frozenset(
    {"run_id", "turn_id", "thread_id", "tenant", "graph_id", "assistant_id", "attempt"}
)
STREAM_EVENTS = frozenset({"metadata", "end"})


def run_metadata(items: list[Item]) -> list[Item]:
    """Leave out what a server adds to a run's metadata."""
    for item in items:
        _without(item.data, RUN_METADATA)
    return items


def stream_events(items: list[Item]) -> list[Item]:
    """Leave out the events of the stream itself."""
    return [item for item in items if item.event not in STREAM_EVENTS]


def checkpoint_config(items: list[Item]) -> list[Item]:
    """Leave out all of a checkpoint's config but where it lies."""
    for item in items:
        data = item.data.get("payload") if item.event.startswith("debug") else item.data
        if not (isinstance(data, dict) and "parent_config" in data):
            continue
        for name in ("config", "parent_config"):
            if data[name]:
                configurable = data[name]["configurable"]
                data[name] = {"checkpoint_ns": configurable.get("checkpoint_ns", "")}
    return items


def answered_questions(items: list[Item]) -> list[Item]:
    """Leave out the questions in a checkpoint's tasks."""
    for item in items:
        data = item.data.get("payload") if item.event.startswith("debug") else item.data
        if isinstance(data, dict) and "parent_config" in data:
            for task in data["tasks"]:
                task["interrupts"] = []
    return items


def removals(items: list[Item]) -> list[Item]:
    """Leave out the messages that tell of a removal."""
    return [item for item in items if not (_is_message(item) and item.data[0]["type"] == "remove")]


def returned_messages(items: list[Item]) -> list[Item]:
    """Leave out the name of the library, of messages that no model gave."""
    for item in items:
        about = item.data[1:] if _is_message(item) else []
        if item.event == "messages/metadata":
            about = [one["metadata"] for one in item.data.values()]
        for metadata in about:
            if "ls_model_type" not in metadata:
                metadata.pop("ls_integration", None)
    return items


def tool_events(items: list[Item]) -> list[Item]:
    """Give LangGraph's events of tools the names and fields that ours have."""
    names = {"tool-started": "on_tool_start", "tool-finished": "on_tool_end"}
    names |= {"tool-error": "on_tool_error", "tool-output-delta": "on_tool_event"}
    for item in items:
        if item.event.partition("|")[0] != "tools":
            continue
        data = item.data
        if data["event"] in names:
            data["event"] = names[data["event"]]
            data["toolCallId"] = data["tool_call_id"]
            data["data"] = data.get("delta")
        item.data = {key: data.get(key) for key in ("event", "toolCallId", "input", "data")}
        item.data["output"] = _output(data.get("output"))
    return items


def finished_functions(items: list[Item]) -> list[Item]:
    """Leave out starts of tasks that do not end in the turn."""
    ended = {about["id"] for item in items if (about := _task_of(item)) and "result" in about}
    return [item for item in items if not (about := _task_of(item)) or about["id"] in ended]


def writers_of_functions(items: list[Item]) -> list[Item]:
    """Leave out the namespace of custom items."""
    for item in items:
        if item.event.startswith("custom"):
            item.event = "custom"
    return items


def first_checkpoint_of_functions(items: list[Item]) -> list[Item]:
    """Put the first checkpoint in front of the first task, in the mode `debug`."""
    debug = [item for item in items if item.event == "debug"]
    if len(debug) > 1 and debug[1].data["step"] == -1:
        items = [item for item in items if item is not debug[1]]
        items.insert(items.index(debug[0]), debug[1])
    return items


def _output(output: Any) -> Any:
    """Return a tool's text; of a command, which ours has as JSON, only that it is one."""
    if isinstance(output, dict):
        return output.get("content", "<command>")
    return "<command>" if isinstance(output, str) and '"update":' in output else output


def _is_message(item: Item) -> bool:
    return item.event.partition("|")[0] in ("messages", "messages/complete")


def _task_of(item: Item) -> dict[str, Any] | None:
    mode = item.event.partition("|")[0]
    if mode == "debug" and item.data["type"] != "checkpoint":
        return item.data["payload"]
    return item.data if mode == "tasks" else None


DIFFERENCES: dict[str, Callable[[list[Item]], list[Item]]] = {
    "run metadata": run_metadata,
    "stream events": stream_events,
    "checkpoint config": checkpoint_config,
    "answered questions": answered_questions,
    "removals": removals,
    "returned messages": returned_messages,
    "tool events": tool_events,
    "finished functions": finished_functions,
    "first checkpoint of functions": first_checkpoint_of_functions,
    "writers of functions": writers_of_functions,
}


def state_left_out(states: Any) -> Any:
    """Return states without what is meant to differ."""
    _without(states, RUN_METADATA)
    return states


def left_out(items: list[Item]) -> list[Item]:
    """Return the items without what is meant to differ."""
    for leave_out in DIFFERENCES.values():
        items = leave_out(items)
    return items


def _without(value: Any, keys: frozenset[str]) -> None:
    if isinstance(value, dict):
        for key in keys & value.keys():
            del value[key]
        if value.get("metadata") == {}:
            del value["metadata"]
        for item in value.values():
            _without(item, keys)
    elif isinstance(value, list):
        for item in value:
            _without(item, keys)
