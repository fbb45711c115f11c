"""LangChain's end of a chain: no task without a handler, and each handler is called."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.callbacks.manager import AsyncCallbackManagerForChainRun

from turnstream.graph.langgraph import unheard


class Ends(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.outputs: list[Any] = []

    async def on_chain_end(self, outputs: Any, **_rest: Any) -> None:
        self.outputs.append(outputs)


def manager(*handlers: Ends) -> AsyncCallbackManagerForChainRun:
    return AsyncCallbackManagerForChainRun(
        run_id=uuid.uuid4(), handlers=list(handlers), inheritable_handlers=[]
    )


async def test_no_task_is_made_without_a_handler() -> None:
    unheard.install()
    made: list[str] = []
    loop = asyncio.get_running_loop()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **rest: Any) -> asyncio.Task[Any]:
        made.append(coro.__qualname__)
        return asyncio.Task(coro, loop=loop, **rest)

    loop.set_task_factory(factory)
    try:
        await manager().on_chain_end({"a": 1})
    finally:
        loop.set_task_factory(None)
    assert made == []


async def test_a_handler_is_called() -> None:
    unheard.install()
    ends = Ends()
    await manager(ends).on_chain_end({"a": 1})
    assert ends.outputs == [{"a": 1}]
