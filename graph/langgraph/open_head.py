"""The head of a thread whose turn ended with a node's error.

LangGraph leaves such a head as it is, with the node in `next`. `add_to_open_head` adds messages to
it without ending it. `accepts` finds out whether a later turn could go on from it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from langgraph.channels import BinaryOperatorAggregate
from langgraph.checkpoint.base.id import uuid6
from pydantic import BaseModel, ValidationError

from turnstream.schemas.errors import TurnstreamError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointTuple
    from langgraph.types import PregelTask

    from turnstream.graph.langgraph.factories import AnyPregel

ERROR = "__error__"


async def accepts(graph: AnyPregel, found: CheckpointTuple) -> bool:
    """Return whether the graph can go on from a checkpoint: its schema takes what it holds."""
    try:
        snapshot = await graph.aget_state(found.config)
    except TurnstreamError:
        raise
    except Exception:  # noqa: BLE001  the schemas are the graph's own code
        return False
    schema = getattr(getattr(graph, "builder", None), "state_schema", None)
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return True
    try:
        schema.model_validate(snapshot.values)
    except ValidationError as error:
        return all(one["type"] == "missing" for one in error.errors(include_input=False))
    except Exception:  # noqa: BLE001  a validator of the graph's own
        return False
    return True


async def add_to_open_head(
    graph: AnyPregel,
    saver: BaseCheckpointSaver[str],
    head: CheckpointTuple,
    added: Sequence[BaseMessage],
) -> bool:
    """Put a checkpoint that has these messages as well, and the same tasks to run.

    Returns False where the graph keeps its messages in a way that is not known here.
    """
    channel = graph.channels["messages"]
    if not isinstance(channel, BinaryOperatorAggregate):
        return False
    before = head.checkpoint
    grown = channel.from_checkpoint(before["channel_values"].get("messages", []))
    grown.update([list(added)])
    versions = before["channel_versions"]
    version = saver.get_next_version(max(map(str, versions.values()), default=None), None)
    step = head.metadata.get("step", -1) + 1
    after: Checkpoint = {
        **before,
        "id": str(uuid6(clock_seq=step)),
        "ts": datetime.now(UTC).isoformat(),
        "channel_values": {**before["channel_values"], "messages": grown.checkpoint()},
        "channel_versions": {**versions, "messages": version},
        "updated_channels": ["messages"],
    }
    config: RunnableConfig = {**head.config, "metadata": _kept_metadata(head)}
    stored = await saver.aput(
        config,
        after,
        {"source": "update", "step": step, "parents": head.metadata.get("parents", {})},
        {"messages": version},
    )
    failed = {task_id: value for task_id, name, value in head.pending_writes or () if name == ERROR}
    names = {
        _place(task): failed[task.id]
        for task in (await graph.aget_state(head.config)).tasks
        if task.id in failed
    }
    for task in (await graph.aget_state(stored)).tasks:
        if (error := names.get(_place(task))) is not None:
            await saver.aput_writes(stored, [(ERROR, error)], task.id)
    return True


def _place(task: PregelTask) -> tuple[object, ...]:
    return task.name, *task.path


def _kept_metadata(head: CheckpointTuple) -> dict[str, object]:
    own = ("source", "step", "parents")
    return {key: value for key, value in head.metadata.items() if key not in own}
