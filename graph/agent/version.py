"""The version of the built-in agent, as `AttemptStarted` carries it (`config_hash`).

Two versions are equal if these are equal:

- the source text of `graph/agent`, `graph/tools` and `graph/values.py`;
- the agent's settings: prompt, bounds, parameters of model calls, retries;
- the tools in their order: name, description, JSON schema, time-out, what they state about effects.

Not covered: the model's name and server, which each answer names, the code of tools from other
packages, and what an assistant or a request sets for its own turn.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from turnstream.graph.agent.state import AgentSettings
    from turnstream.graph.ports.tools import Tool

_GRAPH = Path(__file__).parents[1]


def sources() -> dict[str, str]:
    """Return the SHA-256 (hex) of each module that the version covers, by its path."""
    modules = [*_GRAPH.glob("agent/**/*.py"), *_GRAPH.glob("tools/**/*.py"), _GRAPH / "values.py"]
    return {
        str(module.relative_to(_GRAPH)): hashlib.sha256(module.read_bytes()).hexdigest()
        for module in sorted(modules)
    }


def version_of(modules: Mapping[str, str], tools: Sequence[Tool], settings: AgentSettings) -> str:
    """Return the version (hex) of an agent; `modules` are as `sources` returns them."""
    told = msgspec.json.encode(
        [modules, settings, [_stated(tool) for tool in tools]], order="sorted"
    )
    return hashlib.sha256(told).hexdigest()


def _stated(tool: Tool) -> dict[str, object]:
    effects = tool.effects
    return {
        "spec": tool.spec,
        "timeout_s": tool.timeout_s,
        "effects": None
        if effects is None
        else {"honours_key": effects.honours_key, "finds": effects.find is not None},
    }
