"""Agents of the libraries that people build on LangGraph with."""

from __future__ import annotations

from typing import Any

from deepagents import create_deep_agent
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, SummarizationMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph_supervisor import create_supervisor
from langgraph_swarm import create_handoff_tool, create_swarm
from pydantic import BaseModel
from scripted import call, said


@tool
def send(to: str, text: str) -> str:
    """Send a mail."""
    return f"sent to {to}: {text}"


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


approving = create_agent(
    said(
        AIMessage("I send it.", tool_calls=[call("send", "call_0", to="ann", text="hi")]),
        "It is sent.",
    ),
    [send],
    middleware=[HumanInTheLoopMiddleware(interrupt_on={"send": True})],
    name="mailer",
)

summing_up = create_agent(
    said("A short answer."),
    [],
    middleware=[
        SummarizationMiddleware(
            said("They talked about the weather."),
            trigger=("messages", 4),
            keep=("messages", 2),
        )
    ],
)


class Weather(BaseModel):
    """What the weather is."""

    city: str
    degrees: int


structured = create_agent(
    said(AIMessage("", tool_calls=[call("Weather", "call_0", city="Salem", degrees=21)])),
    [],
    response_format=ToolStrategy(Weather),
)


def specialist(name: str, *replies: Any, tools: list[Any]) -> Any:
    """Return an agent that others hand over to."""
    return create_agent(said(*replies), tools, name=name)


supervisor = create_supervisor(
    [
        specialist(
            "maths",
            AIMessage("", tool_calls=[call("add", "call_0", a=1, b=2)]),
            "It is three.",
            tools=[add],
        )
    ],
    model=said(
        AIMessage("", tool_calls=[call("transfer_to_maths", "call_0")]),
        "",
        "",
        "The answer is three.",
    ),
).compile()

swarm = create_swarm(
    [
        specialist(
            "alice",
            AIMessage("", tool_calls=[call("transfer_to_bob", "call_0")]),
            "Alice speaks.",
            tools=[create_handoff_tool(agent_name="bob")],
        ),
        specialist(
            "bob",
            "Bob speaks.",
            "Bob speaks after all.",
            tools=[create_handoff_tool(agent_name="alice")],
        ),
    ],
    default_active_agent="alice",
).compile()

deep = create_deep_agent(
    model=said(
        AIMessage("I look around.", tool_calls=[call("ls", "call_0", path="/")]),
        AIMessage("", tool_calls=[call("write_file", "call_1", file_path="/a.txt", content="A")]),
        AIMessage(
            "",
            tool_calls=[
                call("task", "call_2", description="look", subagent_type="general-purpose")
            ],
        ),
        "All done.",
    ),
    subagents=[
        {
            "name": "general-purpose",
            "description": "does anything",
            "system_prompt": "Be brief.",
            "model": said("The helper has looked."),
            "tools": [],
        }
    ],
)
