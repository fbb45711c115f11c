"""A saver that collects what it is told to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from turnstream.graph.ports.commits import PutCheckpoint, PutWrites

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata

    from turnstream.graph.ports.commits import SaverCall


class CollectingSaver(BaseCheckpointSaver[str]):
    """Reads through to a saver and keeps what is written in `calls`, in order."""

    def __init__(self, saver: BaseCheckpointSaver[str]) -> None:
        super().__init__(serde=saver.serde)
        self._saver = saver
        self._written: dict[str, CheckpointTuple] = {}
        self.hide_writes = False
        """Show checkpoints as if no task had run from them."""
        self.calls: list[SaverCall] = []

    def taken(self) -> tuple[SaverCall, ...]:
        """Return what was written and drop it here, because LangGraph holds this in a circle."""
        calls, self.calls = self.calls, []
        return tuple(calls)

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Count versions as the saver behind does."""
        return self._saver.get_next_version(current, channel)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return what was written here, or else what is stored."""
        checkpoint_id = config["configurable"].get("checkpoint_id")
        if checkpoint_id in self._written:
            return self._written[checkpoint_id]
        found = await self._saver.aget_tuple(config)
        if found is not None and self.hide_writes:
            return found._replace(pending_writes=[])
        return found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint."""
        self.calls.append(PutCheckpoint(config, checkpoint, metadata, new_versions))
        configurable = config["configurable"]
        stored: RunnableConfig = {
            "configurable": {
                "thread_id": configurable["thread_id"],
                "checkpoint_ns": configurable.get("checkpoint_ns", ""),
                "checkpoint_id": checkpoint["id"],
            }
        }
        self._written[checkpoint["id"]] = CheckpointTuple(
            stored, checkpoint, metadata, config if configurable.get("checkpoint_id") else None, []
        )
        return stored

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Keep writes."""
        self.calls.append(PutWrites(config, writes, task_id, task_path))
