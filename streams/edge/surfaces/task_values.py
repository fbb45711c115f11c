"""A task's input and result, read from the checkpoints because the log does not hold large ones."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnstream.streams.edge.surfaces.states import (
    COMMIT_POLL_S,
    COMMIT_WAIT_S,
    States,
    config_of,
)

if TYPE_CHECKING:
    from turnstream.streams.edge.surfaces.state_json import StateJson


@dataclass(frozen=True, slots=True)
class TaskValues:
    """Reads what tasks of a thread were given and wrote; `ns` names the graph of a task."""

    states: States

    async def given(self, key: str, state: StateJson, ns: str, node: str) -> object:
        """Return a node's input in a state: the values of the channels that it reads."""
        graph = await self.states.graph(key)
        values = state["values"]
        if graph is None or not isinstance(values, dict):
            return values
        channels = await graph.channels_of(config_of(key, "", ns), node)
        if channels is None:
            return values
        return {name: values[name] for name in channels if name in values}

    async def sent(self, key: str, state: StateJson, ns: str, task_id: str) -> object:
        """Return the argument of the `Send` that made a task; None for any other task."""
        graph = await self.states.graph(key)
        paths = (task["path"] for task in state["tasks"] if task["id"] == task_id)
        number = next((path[1] for path in paths if len(path) > 1), None)
        if graph is None or not isinstance(number, int):
            return None
        config = config_of(key, state["checkpoint_id"] or "", ns)
        sent = await self.states.read(graph.sent(config))
        return sent[number] if number < len(sent) else None

    async def written(self, key: str, checkpoint_id: str, ns: str, task_id: str) -> object:
        """Return what a task of a checkpoint wrote, once it is there; None if it is not in time."""
        deadline = asyncio.get_running_loop().time() + COMMIT_WAIT_S
        while True:
            state = await self.states.state(key, checkpoint_id=checkpoint_id, ns=ns)
            for task in state["tasks"]:
                if task["id"] == task_id and task["result"] is not None:
                    return task["result"]
            if asyncio.get_running_loop().time() > deadline:
                return None
            await asyncio.sleep(COMMIT_POLL_S)
