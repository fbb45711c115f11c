"""The same turns over HTTP: on turnstream, or on whatever speaks the same protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cases import MODES, Resume
from played import Item, Played

if TYPE_CHECKING:
    from cases import Case


async def play(
    client: Any, case: Case, *, subgraphs: bool, modes: tuple[str, ...] = MODES
) -> list[Played]:
    """Run the turns of a case; return what each one showed and left."""
    thread_id = (await client.threads.create())["thread_id"]
    turns = []
    for turn in case.turns:
        given: dict[str, Any] = {"input": turn}
        if isinstance(turn, Resume):
            asked = (await client.threads.get_state(thread_id))["interrupts"]
            given = {"command": {"resume": {one["id"]: turn.value for one in asked}}}
        items = [
            Item(part.event, part.data)
            async for part in client.runs.stream(
                thread_id,
                case.graph,
                stream_mode=list(modes),
                stream_subgraphs=subgraphs,
                config=case.config or None,
                **given,
            )
        ]
        state = await client.threads.get_state(thread_id)
        history = await client.threads.get_history(thread_id, limit=100)
        turns.append(Played(items, _state(state), [_state(one) for one in history]))
    return turns


def _state(state: dict[str, Any]) -> dict[str, Any]:
    shown = ("values", "next", "metadata", "interrupts")
    about = ("name", "error", "interrupts", "result")
    tasks = [{key: task.get(key) for key in about} for task in state["tasks"]]
    return {**{key: state[key] for key in shown}, "tasks": tasks}
