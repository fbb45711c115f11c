"""Tools that come with the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.graph.tools.arithmetic import arithmetic_tool
from turnstream.graph.tools.clock import current_time_tool

if TYPE_CHECKING:
    from turnstream.graph.ports.tools import Tool


def built_in_tools() -> tuple[Tool, ...]:
    """Return the tools of a fresh install, in the order in which models see them."""
    return (current_time_tool(), arithmetic_tool())
