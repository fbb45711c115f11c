"""Ends a LangChain chain without a task where no handler is called.

LangChain runs `on_chain_end` in a task of its own, which shields it from cancellation. It makes the
task for each run and each node of a graph, even where there is no handler.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from langchain_core.callbacks.manager import AsyncCallbackManagerForChainRun

_told = AsyncCallbackManagerForChainRun.on_chain_end


@wraps(_told)
async def _on_chain_end(
    self: AsyncCallbackManagerForChainRun, outputs: dict[str, Any] | Any, **kwargs: Any
) -> None:
    if self.handlers:
        await _told(self, outputs, **kwargs)


def install() -> None:
    """Put it in LangChain's place; safe to repeat."""
    AsyncCallbackManagerForChainRun.on_chain_end = _on_chain_end  # type: ignore[method-assign]
