"""A tool's events in the run-scoped mode `tools`."""

from __future__ import annotations

from turnstream.schemas.records.events import ToolFailed, ToolFinished, ToolProgressed, ToolStarted
from turnstream.streams.edge.surfaces.run_events import raw


def tool_event(
    record: ToolStarted | ToolProgressed | ToolFinished | ToolFailed,
) -> dict[str, object]:
    """Return the mode's event for a record."""
    match record:
        case ToolStarted():
            return {
                "event": "on_tool_start",
                "toolCallId": record.tool_call_id,
                "name": record.name,
                "input": raw(record.args),
            }
        case ToolProgressed():
            data = raw(record.data)
            return {
                "event": "on_tool_event",
                "toolCallId": record.tool_call_id,
                "name": "",
                "data": data,
            }
        case ToolFinished():
            return {
                "event": "on_tool_end",
                "toolCallId": record.tool_call_id,
                "name": record.name,
                "output": record.output,
            }
        case ToolFailed():
            return {
                "event": "on_tool_error",
                "toolCallId": record.tool_call_id,
                "name": record.name,
                "error": {"error": record.code, "message": record.message},
            }
