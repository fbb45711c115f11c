"""A thread's id in LangGraph's configs: graphs use the client's id, the tables use the key."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import CheckpointTuple


def with_thread(config: RunnableConfig, thread_id: str) -> RunnableConfig:
    """Return the config with this id of its thread."""
    if config["configurable"]["thread_id"] == thread_id:
        return config
    return {**config, "configurable": {**config["configurable"], "thread_id": thread_id}}


def with_thread_in(loaded: CheckpointTuple, thread_id: str) -> CheckpointTuple:
    """Return the checkpoint with this id of its thread in its configs."""
    parent = loaded.parent_config
    return loaded._replace(
        config=with_thread(loaded.config, thread_id),
        parent_config=with_thread(parent, thread_id) if parent else None,
    )
