"""Functions that make a graph: called for each use, as LangGraph's server calls them.

A factory takes nothing, the config, LangGraph's `ServerRuntime`, the user, or several of these. It
returns a graph, or a context manager that gives one for the time of the use; each may be async.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import types
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langgraph.graph.state import StateGraph
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph_sdk.auth.types import BaseUser
from langgraph_sdk.runtime import (
    ServerRuntime,
    _ExecutionRuntime,
    _ReadRuntime,
)

from turnstream.graph.langgraph.node_exits import contained
from turnstream.schemas.errors import CatalogError, GraphUnsupportedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from langchain_core.runnables import RunnableConfig

Access = Literal["threads.create_run", "threads.update", "threads.read", "assistants.read"]
AnyPregel = Pregel[Any, Any, Any, Any]

WANTED = "a compiled graph, a StateGraph or a function that returns one"
EXECUTES = "__is_for_execution__"
"""What a factory's config says under this name on LangGraph's server: whether a run is made."""
RUNTIMES = (ServerRuntime, _ExecutionRuntime, _ReadRuntime)


def _empty() -> RunnableConfig:
    return {"configurable": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """The use that a graph is made for. `context` is the run's, as the caller gave it."""

    access: Access
    config: RunnableConfig = field(default_factory=_empty)
    context: Any = None

    def given(self, kind: str) -> object:
        """Return what LangGraph's server would hand to a parameter of this kind."""
        configurable = self.config.get("configurable") or {}
        if kind == "config":
            executes = self.access == "threads.create_run"
            return {**self.config, "configurable": {**configurable, EXECUTES: executes}}
        user = configurable.get("langgraph_auth_user")
        if kind == "user":
            return user
        store = InMemoryStore()
        if kind == "store":
            return store
        if self.access == "threads.create_run":
            return _ExecutionRuntime(
                access_context=self.access, user=user, store=store, context=self.context
            )
        return _ReadRuntime(access_context=self.access, user=user, store=store)


@dataclass(frozen=True, slots=True)
class Factory:
    """A function that makes a graph, and what its parameters take, by their names."""

    function: Callable[..., Any]
    takes: Mapping[str, str]

    @contextlib.asynccontextmanager
    async def made(self, use: Use) -> AsyncIterator[AnyPregel]:
        """Give a graph for one use. Raises what the function raises."""
        arguments = {name: use.given(kind) for name, kind in self.takes.items()}
        async with contextlib.AsyncExitStack() as stack:
            try:
                made = await _called(self.function, arguments)
                graph = as_graph(await _entered(stack, made))
            except (Exception, asyncio.CancelledError):
                raise
            except BaseException as error:
                raise contained(error) from error
            yield graph


def factory_of(function: Callable[..., object], where: str) -> Factory:
    """Return the factory; raises `CatalogError` for a parameter that cannot be filled."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001  names that only type checkers see
        hints = {}
    takes: dict[str, str] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = _kind(parameter, hints.get(parameter.name, parameter.annotation))
        if not kind and parameter.default is not parameter.empty:
            continue
        if not kind and "config" not in takes.values():
            kind = "config"  # as in `def make(_)`
        if not kind:
            raise CatalogError(
                f"{where}: the function's parameter {parameter.name!r} is not known;"
                " it may take config, runtime, user and store"
            )
        takes[parameter.name] = kind
    return Factory(function, takes)


def _kind(parameter: inspect.Parameter, annotation: object) -> str:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):  # one that may be None
        annotation = typing.get_args(annotation)[0]
    origin = typing.get_origin(annotation) or annotation
    text = annotation if isinstance(annotation, str) else getattr(origin, "__name__", "")
    kind = ""
    if origin in RUNTIMES or "Runtime" in text:
        kind = "runtime"
    elif "RunnableConfig" in text:
        kind = "config"
    elif origin is BaseUser or "BaseUser" in text:
        kind = "user"
    elif (isinstance(origin, type) and issubclass(origin, BaseStore)) or "BaseStore" in text:
        kind = "store"
    elif parameter.name in ("config", "runtime", "user", "store"):
        kind = parameter.name
    return kind


def as_graph(value: object) -> AnyPregel:
    """Return a compiled graph that can run here; raises `GraphUnsupportedError`."""
    if isinstance(value, StateGraph):
        value = value.compile()
    if not isinstance(value, Pregel):
        raise GraphUnsupportedError(f"it is a {type(value).__name__}; it should be {WANTED}")
    if value.interrupt_before_nodes or value.interrupt_after_nodes:
        raise GraphUnsupportedError(
            "interrupt_before and interrupt_after have no id that an answer could name;"
            " call interrupt() in the node"
        )
    _let_subgraphs_inherit(value)
    return value


def _let_subgraphs_inherit(graph: AnyPregel) -> None:
    """Give subgraphs compiled with `checkpointer=False` their parent's.

    langgraph 1.2 fails on them under durability "sync" (`_put_checkpoint_fut`). `get_subgraphs`
    does not list them, so they are looked up where a node holds them. One that a node calls in its
    own code is not found: its turn fails with code `graph_unsupported`.
    """
    for node in graph.nodes.values():
        inner = node.bound
        if isinstance(inner, Pregel):
            if inner.checkpointer is False:
                inner.checkpointer = None
            _let_subgraphs_inherit(inner)


async def _called(function: Callable[..., object], arguments: dict[str, object]) -> object:
    """Call a factory: a plain function in a thread, because it may wait for something."""
    made: object
    if _is_async(function):
        made = function(**arguments)
    else:
        made = await asyncio.to_thread(function, **arguments)
    return await made if inspect.isawaitable(made) else made


def _is_async(function: Callable[..., object]) -> bool:
    """Return whether a call of the function returns at once, without running its code."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


async def _entered(stack: contextlib.AsyncExitStack, made: object) -> object:
    """Return what a context manager gives, until the stack is left; anything else as it is."""
    if isinstance(made, Pregel | StateGraph):
        return made
    if inspect.isasyncgen(made):
        yielding: AsyncIterator[object] = made
        made = contextlib.asynccontextmanager(lambda: yielding)()
    elif inspect.isgenerator(made):
        giving: Iterator[object] = made
        made = contextlib.contextmanager(lambda: giving)()
    if isinstance(made, contextlib.AbstractAsyncContextManager):
        return await stack.enter_async_context(made)
    if isinstance(made, contextlib.AbstractContextManager):
        entered: object = await asyncio.to_thread(made.__enter__)
        leave = made.__exit__

        async def left(*error: Any) -> bool | None:
            return await asyncio.to_thread(leave, *error)

        stack.push_async_exit(left)
        return entered
    return made
