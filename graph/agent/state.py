"""State and settings of the built-in agent."""

from collections.abc import Awaitable, Mapping
from typing import Annotated, Any, Protocol

import msgspec
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import Command

# pydantic, which makes the schemas that clients see, refuses typing's own before Python 3.12
from typing_extensions import TypedDict

from turnstream.graph.agent.retries import RetrySettings
from turnstream.graph.agent.turn_context import TurnContext
from turnstream.schemas.errors import InvalidRequestError


class AgentState(TypedDict):
    """The state that LangChain users know: a list of messages that grows."""

    messages: Annotated[list[AnyMessage], add_messages]


Update = dict[str, Any] | Command[str]


class Node(Protocol):
    """A node of the agent, as LangGraph calls it."""

    def __call__(self, state: AgentState, *, runtime: Runtime[TurnContext]) -> Awaitable[Update]:
        """Return what the node adds to the state, and where to go on."""
        ...


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every turn of a deployment.

    `steps_max` counts model calls of one turn; the last one gets no tools. `params` go into every
    request as they are.
    """

    system_prompt: str = "You are a helpful assistant."
    steps_max: int = 16
    tool_calls_max: int = 16  # in one answer
    tool_timeout_s: float = 30.0
    tool_output_chars_max: int = 32_000
    params: dict[str, Any] = {}
    retries: RetrySettings = RetrySettings()


class TurnSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an assistant or a request may set for a turn, in `config.configurable`."""

    model: str = ""
    system_prompt: str | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: int | None = None
    tools: list[str] | None = None  # names; the others are not offered

    @property
    def params(self) -> dict[str, Any]:
        """Return what goes into the request."""
        named = {
            name: getattr(self, name) for name in ("temperature", "top_p", "max_tokens", "seed")
        }
        return {name: value for name, value in named.items() if value is not None}


def turn_settings(configurable: Mapping[str, object]) -> TurnSettings:
    """Return the settings of a turn; raises `InvalidRequestError` (`invalid_configurable`)."""
    known = {
        name: configurable[name] for name in TurnSettings.__struct_fields__ if name in configurable
    }
    try:
        return msgspec.convert(known, TurnSettings)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(
            f"configurable: {error}", code="invalid_configurable", field="configurable"
        ) from error


def calls_before(messages: list[AnyMessage]) -> int:
    """Return how many model calls the turn has made: the answers after the user's last message."""
    count = 0
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        count += isinstance(message, AIMessage)
    return count
