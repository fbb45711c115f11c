"""A graph as people write them for LangGraph, with nothing of turnstream in it.

It asks for approval (`interrupt`), calls a tool, streams an answer, and reports its progress.
"""

from typing import Annotated

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt
from typing_extensions import TypedDict


class State(TypedDict):
    """The conversation, and what the user decided."""

    messages: Annotated[list[AnyMessage], add_messages]
    approved: bool


@tool
def population(city: str) -> str:
    """Look up how many people live in a city."""
    return f"{city} has 9.4 million inhabitants"


def plan(state: State) -> dict:
    """Decide to look something up."""
    call = {"name": "population", "args": {"city": "Seoul"}, "id": f"call-{len(state['messages'])}"}
    return {"messages": [AIMessage("", tool_calls=[call])]}


def approve(state: State) -> dict:
    """Ask the user."""
    call = state["messages"][-1].tool_calls[0]
    answer = interrupt({"question": f"May I call {call['name']}?", "args": call["args"]})
    return {"approved": bool(answer)}


def route(state: State) -> str:
    """Call the tool if the user agreed."""
    return "tools" if state["approved"] else END


async def answer(state: State) -> dict:
    """Answer with what the tool found."""
    get_stream_writer()({"progress": "answering"})
    said = AIMessage(f"I looked it up: {state['messages'][-1].content}.")
    model = GenericFakeChatModel(messages=iter([said]))
    return {"messages": [await model.ainvoke(state["messages"])]}


builder = StateGraph(State)
builder.add_node("plan", plan)
builder.add_node("approve", approve)
builder.add_node("tools", ToolNode([population]))
builder.add_node("answer", answer)
builder.add_edge(START, "plan")
builder.add_edge("plan", "approve")
builder.add_conditional_edges("approve", route, ["tools", END])
builder.add_edge("tools", "answer")
builder.add_edge("answer", END)
graph = builder.compile()
