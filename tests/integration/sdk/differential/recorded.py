"""What LangGraph's own server sent for the same turns, as facts: what came in which order.

    python recorded.py URL > recorded.json

against `langgraph dev` (`langgraph-cli[inmem]`, in an environment of its own) in `graphs/`. That
server is no part of the project, and nothing of it is kept but this list of facts.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from played import Item

FILE = Path(__file__).with_name("recorded.json")
TEXT_CHARS = 40


def facts(items: list[Item]) -> dict[str, list[str]]:
    """Return what a turn showed, a list of facts by mode; the mode `debug` only repeats others."""
    found: dict[str, list[str]] = {}
    for item in items:
        mode, _, space = item.event.partition("|")
        if (what := _fact(mode, item.data)) is not None:
            place = "|".join(part.partition(":")[0] for part in space.split("|"))
            found.setdefault(mode, []).append(f"{place} {what}".strip())
    return found


def _fact(mode: str, data: Any) -> str | None:
    match mode:
        case "messages":
            message, metadata = data
            text = json.dumps(message["content"])[:TEXT_CHARS]
            calls = [call["name"] for call in message.get("tool_calls") or ()]
            return f"{metadata['langgraph_node']} {message['type']} {text} {calls}"
        case "updates":
            return " ".join(sorted(data))
        case "values":
            return "asked" if isinstance(data, dict) and "__interrupt__" in data else "values"
        case "tasks":
            if "result" in data:
                return f"{data['name']} ended {sorted(data['result'])} {len(data['interrupts'])}"
            return f"{data['name']} began {data['triggers']}"
        case "checkpoints":
            return f"{data['metadata']['source']} {data['metadata']['step']} {data['next']}"
        case "custom":
            return json.dumps(data)
    return None


async def _record(url: str) -> dict[str, Any]:
    import served
    from cases import CASES
    from differences import left_out
    from langgraph_sdk import get_client
    from played import merged, normalised

    found: dict[str, Any] = {}
    async with get_client(url=url) as client:
        for case in CASES:
            for subgraphs in (False, True):
                turns = await served.play(client, case, subgraphs=subgraphs)
                name = f"{case.graph}{'+' if subgraphs else ''}"
                found[name] = [normalised(facts(left_out(merged(turn.items)))) for turn in turns]
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_record(sys.argv[1])), indent=0, sort_keys=True))
