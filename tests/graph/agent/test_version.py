"""The version of the built-in agent changes with what it covers, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from pydantic import BaseModel, Field

import turnstream.graph
from turnstream.graph.agent.builder import agent_entry
from turnstream.graph.agent.retries import RetrySettings
from turnstream.graph.agent.state import AgentSettings
from turnstream.graph.agent.version import sources, version_of
from turnstream.graph.ports.lookup import Services
from turnstream.graph.ports.model import MODEL
from turnstream.graph.ports.tools import Effects
from turnstream.graph.tools import built_in_tools
from turnstream.graph.tools.function import FunctionTool

GRAPH = Path(turnstream.graph.__path__[0])


class Arguments(BaseModel):
    word: str = ""


class Described(BaseModel):
    word: str = Field("", description="one word")


async def find(arguments: Arguments, key: str) -> None:
    return None


async def seek(arguments: Arguments, key: str) -> None:
    return None


def tool(arguments: type[BaseModel] = Arguments, **fields: object) -> FunctionTool:
    async def look(arguments: BaseModel, context: object) -> str:
        return ""

    return FunctionTool(look, arguments, **{"name": "look", "description": "Look.", **fields})


def version(*tools: FunctionTool, settings: AgentSettings | None = None, **changed: str) -> str:
    return version_of(
        sources() | changed, tools or (tool(), tool(name="see")), settings or AgentSettings()
    )


OTHERS = {
    str: "other",
    int: 7,
    float: 7.5,
    dict: {"temperature": 0.5},
    RetrySettings: RetrySettings(tries_max=9),
}


@pytest.mark.parametrize("kind", [AgentSettings, RetrySettings])
def test_every_setting_is_covered(kind):
    for field in kind.__struct_fields__:
        whole = kind()
        other = OTHERS[type(getattr(whole, field))]
        changed = msgspec.structs.replace(whole, **{field: other})
        settings = changed if kind is AgentSettings else AgentSettings(retries=changed)
        assert version(settings=settings) != version(), field


def test_every_module_of_the_agent_and_its_tools_is_covered():
    there = {
        str(path.relative_to(GRAPH))
        for folder in ("agent", "tools")
        for path in (GRAPH / folder).rglob("*.py")
    }
    assert set(sources()) == there | {"values.py"}
    for module in sources():
        assert version(**{module: "0" * 64}) != version(), module
    assert version(**{"agent/nodes/another.py": "0" * 64}) != version()


@pytest.mark.parametrize(
    "other",
    [
        tool(description="See."),
        tool(Described),
        tool(timeout_s=1.0),
        tool(effects=None),
        tool(effects=Effects(honours_key=True)),
        tool(effects=Effects(find=find)),
        tool(name="glance"),
    ],
)
def test_what_a_tool_states_is_covered(other):
    assert version(other) != version(tool())


def test_which_tools_there_are_and_their_order_are_covered():
    one, two = tool(), tool(name="see")
    assert len({version(one), version(two), version(one, two), version(two, one)}) == 4


def test_a_tools_own_code_is_not_covered():
    async def look(arguments: Arguments, context: object) -> str:
        return "something else"

    assert version(FunctionTool(look, Arguments, description="Look.")) == version(tool())
    assert version(tool(effects=Effects(find=find))) == version(tool(effects=Effects(find=seek)))


def test_services_and_the_order_of_parameters_are_not_covered():
    entry = agent_entry(Services(), built_in_tools())
    assert entry.hash == agent_entry(Services().adding(MODEL, object()), built_in_tools()).hash
    assert version(settings=AgentSettings(params={"a": 1, "b": 2})) == version(
        settings=AgentSettings(params={"b": 2, "a": 1})
    )
