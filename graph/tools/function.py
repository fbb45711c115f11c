"""A tool made of a function and a pydantic model of its arguments."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from turnstream.graph.ports.tools import Effects
from turnstream.schemas.chat import ToolSpec
from turnstream.schemas.errors import ToolArgumentsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from turnstream.graph.ports.tools import ToolCallContext

A = TypeVar("A", bound=BaseModel)


class FunctionTool(Generic[A]):
    """Implements `turnstream.graph.ports.tools.Tool`.

    A plain function runs in a thread, which cannot be stopped: it goes on unseen after its
    time-out. The description is the function's docstring unless given. `effects` is what it does
    outside; None if it only reads or computes, so that it may be called any number of times.
    """

    def __init__(
        self,
        function: Callable[[A, ToolCallContext], object],
        arguments: type[A],
        *,
        name: str = "",
        description: str = "",
        timeout_s: float = 30.0,
        effects: Effects | None = Effects(),  # noqa: B008  frozen
    ) -> None:
        self._function = function
        self._arguments = arguments
        self.timeout_s = timeout_s
        self.effects = effects
        self.spec = ToolSpec(
            name=name or function.__name__,
            description=description or inspect.getdoc(function) or "",
            parameters=_without_titles(arguments.model_json_schema()),
        )

    def check(self, arguments: Mapping[str, object]) -> A:
        """Return the arguments as the pydantic model; raises `ToolArgumentsError`."""
        try:
            return self._arguments.model_validate(arguments)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'arguments'}: {fault['msg']}"
                for fault in error.errors(include_url=False, include_input=False)
            )
            raise ToolArgumentsError(f"the arguments are wrong: {faults}") from error

    async def run(self, arguments: A, context: ToolCallContext) -> object:
        """Return what the function returns."""
        if inspect.iscoroutinefunction(self._function):
            return await self._function(arguments, context)
        return await asyncio.to_thread(self._function, arguments, context)


def _without_titles(schema: Any) -> Any:
    """Drop pydantic's titles, which only cost the model tokens."""
    if isinstance(schema, dict):
        return {
            key: _without_titles(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return schema
