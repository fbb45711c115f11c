"""How far a run is, by the checkpoints that were loaded and stored in its session."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from langchain_core.messages import BaseMessage

from turnstream.connectors.postgres.checkpoints.rows import NULL_TASK_ID, UNFINISHED_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langgraph.checkpoint.base import CheckpointTuple


class Progress:
    """What the checkpoints of one attempt's thread hold already.

    `applied`: the turn's input is in a checkpoint, with all that it wrote. `stepped_at` is when the
    running step of the root graph began (`time.monotonic`).
    """

    def __init__(self) -> None:
        self.applied = False
        self.stepped_at = time.monotonic()
        self._steps: dict[str, int] = {}
        self._finished: set[str] = set()
        self._stored: set[str] = set()

    def step_of(self, namespace: str) -> int:
        """Return the step of a namespace's last checkpoint, -1 without one."""
        return self._steps.get(namespace, -1)

    def finished(self, task_id: str) -> bool:
        """Return whether a loaded checkpoint holds this task's writes: it is not run again (W4)."""
        return task_id in self._finished

    def stored(self, message_id: str) -> bool:
        """Return whether a loaded checkpoint of a nested graph holds this message."""
        return message_id in self._stored

    def put(self, ns: str, step: int, source: str) -> None:
        """Note a checkpoint that the run hands over."""
        self._steps[ns] = step
        if not ns:
            self.stepped_at = time.monotonic()
            self.applied = self.applied or source != "input"

    def loaded(self, ns: str, found: CheckpointTuple, turn_id: str) -> None:
        """Note a checkpoint that the run loads: its step, its finished tasks, its messages."""
        mine = found.metadata.get("run_id") == turn_id
        if mine and not ns and found.metadata.get("source") != "input":
            self.applied = True
        self._steps[ns] = found.metadata.get("step", -1)
        self._finished.update(
            task_id
            for task_id, channel, _ in found.pending_writes or ()
            if task_id != NULL_TASK_ID and channel not in UNFINISHED_CHANNELS
        )
        if ns:
            self._stored.update(_messages_in(found))


def _messages_in(loaded: CheckpointTuple) -> Iterator[str]:
    """Yield the ids of the messages that a checkpoint holds, and its tasks' writes."""
    values = [*loaded.checkpoint["channel_values"].values()]
    values += [value for _, _, value in loaded.pending_writes or ()]
    for value in values:
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, BaseMessage) and one.id:
                yield one.id
