"""Graphs in the style of LangGraph's documentation, with nothing of turnstream in them."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import InjectedState, ToolNode, tools_condition
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel, Field
from scripted import call, said
from typing_extensions import TypedDict

# -- a model and its tools --


@tool
def weather(city: str, state: str) -> str:
    """Look up the weather of a city in a state."""
    return f"sunny in {city}, {state}"


@tool
def history_length(note: str, history: Annotated[dict, InjectedState]) -> str:
    """Count the messages."""
    return f"{note}: {len(history['messages'])}"


asking = said(
    AIMessage(
        "Let me look.",
        tool_calls=[
            call("weather", "call_0", city="Portland", state="Oregon"),
            call("history_length", "call_1", note="so far"),
        ],
    ),
    AIMessage("", tool_calls=[call("weather", "call_0", city="Salem", state="Oregon")]),
    "It is sunny in both.",
)


async def model(state: MessagesState) -> dict[str, Any]:
    """Ask the model."""
    return {"messages": [await asking.ainvoke(state["messages"], {"tags": ["main"]})]}


tooled = StateGraph(MessagesState)
tooled.add_node("model", model)
tooled.add_node("tools", ToolNode([weather, history_length]))
tooled.add_edge(START, "model")
tooled.add_conditional_edges("model", tools_condition)
tooled.add_edge("tools", "model")
tools_graph = tooled.compile()

# -- map and reduce, large updates, nodes that return nothing --


class Jokes(TypedDict, total=False):
    """Subjects, and what came of each."""

    subjects: list[str]
    jokes: Annotated[list[str], operator.add]
    best: str
    text: str


def subjects(state: Jokes) -> dict[str, Any]:
    """Name the subjects."""
    get_stream_writer()({"progress": "subjects"})
    return {"subjects": ["cats", "dogs", "cows"]}


def spread(state: Jokes) -> list[Send]:
    """Send each subject on its way."""
    about = "x" * 20_000
    return [Send("joke", {"subjects": [one], "text": about}) for one in state["subjects"]]


def joke(state: Jokes) -> dict[str, Any]:
    """Joke about one."""
    return {"jokes": [f"a joke about {state['subjects'][0]}"]}


def quiet(state: Jokes) -> None:
    """Return nothing."""


def large(state: Jokes) -> dict[str, Any]:
    """Return a large update."""
    get_stream_writer()("a string")
    return {"text": "x" * 300_000, "best": state["jokes"][0]}


def after(state: Jokes) -> dict[str, Any]:
    """Read it."""
    return {"best": f"{state['best']} of {len(state['text'])}"}


reduced = StateGraph(Jokes)
reduced.add_node("subjects", subjects)
reduced.add_node("joke", joke)
reduced.add_node("quiet", quiet)
reduced.add_node("large", large)
reduced.add_edge(START, "subjects")
reduced.add_conditional_edges("subjects", spread, ["joke"])
reduced.add_edge("joke", "quiet")
reduced.add_node("after", after)
reduced.add_edge("quiet", "large")
reduced.add_edge("large", "after")
map_reduce = reduced.compile()

# -- functional API --


@task
async def draft(subject: str) -> str:
    """Write a draft."""
    get_stream_writer()({"drafting": subject})
    answer = await said(f"A draft about {subject}.").ainvoke([HumanMessage(subject)])
    return answer.text


@task
def polish(text: str) -> str:
    """Make it better."""
    return text.upper()


@entrypoint()
async def essay(inputs: dict[str, Any]) -> dict[str, Any]:
    """Write an essay, and let somebody look at it."""
    text = await draft(inputs["subject"])
    better = await polish(text)
    verdict = interrupt({"text": better, "question": "good?"})
    return {"essay": better, "verdict": verdict}


# -- nested graphs that ask --


class Asked(TypedDict, total=False):
    """Answers."""

    answers: Annotated[list[str], operator.add]


def first_question(state: Asked) -> dict[str, Any]:
    """Ask."""
    return {"answers": [f"first {interrupt({'question': 'first?'})}"]}


def second_question(state: Asked) -> dict[str, Any]:
    """Ask again."""
    return {"answers": [f"second {interrupt('second?')}"]}


inner = StateGraph(Asked)
inner.add_node("first", first_question)
inner.add_node("second", second_question)
inner.add_edge(START, "first")
inner.add_edge("first", "second")


def before(state: Asked) -> dict[str, Any]:
    """Say something before."""
    return {"answers": ["before"]}


outer = StateGraph(Asked)
outer.add_node("before", before)
outer.add_node("inner", inner.compile())
outer.add_edge(START, "before")
outer.add_edge("before", "inner")
nested_questions = outer.compile()

# -- agents that a graph hands over to --


def agent(name: str, *replies: str | AIMessage) -> Any:
    """Return an agent of one node."""
    speaks = said(*replies)

    async def speak(state: MessagesState) -> dict[str, Any]:
        answer = await speaks.ainvoke(state["messages"])
        answer.name = name
        return {"messages": [answer]}

    made = StateGraph(MessagesState)
    made.add_node("speak", speak)
    made.add_edge(START, "speak")
    return made.compile(name=name)


def lead(state: MessagesState) -> Command[str]:
    """Send the conversation to each agent in turn."""
    spoken = [one.name for one in state["messages"] if one.type == "ai"]
    for name in ("research", "maths"):
        if name not in spoken:
            return Command(goto=name)
    return Command(goto=END)


led = StateGraph(MessagesState)
led.add_node("lead", lead, destinations=("research", "maths", END))
led.add_node("research", agent("research", "Three facts were found."))
led.add_node("maths", agent("maths", "That makes nine."))
led.add_edge(START, "lead")
led.add_edge("research", "lead")
led.add_edge("maths", "lead")
supervised = led.compile()

# -- states that are no dictionaries --


class Profile(BaseModel):
    """A pydantic state."""

    name: str = "nobody"
    visits: Annotated[list[int], operator.add] = Field(default_factory=list)


def visit(state: Profile) -> dict[str, Any]:
    """Count."""
    return {"visits": [len(state.visits) + 1], "name": state.name.title()}


pydantic_builder = StateGraph(Profile)
pydantic_builder.add_node("visit", visit)
pydantic_builder.add_edge(START, "visit")
pydantic_state = pydantic_builder.compile()


@dataclass
class Account:
    """A dataclass state."""

    owner: str = "nobody"
    entries: Annotated[list[int], operator.add] = field(default_factory=list)


def book(state: Account) -> dict[str, Any]:
    """Book."""
    return {"entries": [7]}


dataclass_builder = StateGraph(Account)
dataclass_builder.add_node("book", book)
dataclass_builder.add_edge(START, "book")
dataclass_state = dataclass_builder.compile()

# -- messages of several kinds --


class Shown(TypedDict, total=False):
    """Messages."""

    messages: Annotated[list[AnyMessage], add_messages]
    seen: str


def look(state: Shown) -> dict[str, Any]:
    """Look at the picture, and return messages that no model streamed."""
    picture = [
        {"type": "text", "text": "Here is yours again:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    last = state["messages"][-1]
    return {
        "messages": [
            HumanMessage(content=picture, name="viewer"),
            AIMessage(
                "I see a dot.",
                response_metadata={"finish_reason": "stop"},
                additional_kwargs={"sure": True},
            ),
        ],
        "seen": str(type(last.content).__name__),
    }


shown = StateGraph(Shown)
shown.add_node("look", look)
shown.add_edge(START, "look")
multimodal = shown.compile()
