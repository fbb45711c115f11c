"""Makes a nested graph go on at its own checkpoint when the task around it is retried.

LangGraph tells nested graphs to resume in a retry (`CONFIG_KEY_RESUMING`), but it numbers the
graphs that a task calls across its retries. So the first graph called gets another namespace than
before, finds no checkpoint there, and begins anew. After a crash it would go on at its checkpoint.
With this module it does so in a retry too (W11): what it had committed is neither done nor emitted
again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langgraph._internal._constants import CONF, CONFIG_KEY_SCRATCHPAD
from langgraph._internal._scratchpad import PregelScratchpad
from langgraph.pregel import _retry
from langgraph.pregel._algo import LazyAtomicCounter

from turnstream.graph.langgraph import tool_answers

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

# LangGraph calls it before each retry of a task; it has no public name, a test holds that it works
_reset = _retry._reset_interrupt_counter  # noqa: SLF001


def _count_from_the_first_again(config: RunnableConfig) -> RunnableConfig:
    config = _reset(config)
    configurable: dict[str, Any] = config[CONF]
    scratchpad = configurable.get(CONFIG_KEY_SCRATCHPAD)
    if not isinstance(scratchpad, PregelScratchpad):
        return config
    anew = tool_answers.apart(replace(scratchpad, subgraph_counter=LazyAtomicCounter()))
    return {**config, CONF: {**configurable, CONFIG_KEY_SCRATCHPAD: anew}}


def install() -> None:
    """Put it in LangGraph's place; safe to repeat."""
    _retry._reset_interrupt_counter = _count_from_the_first_again  # noqa: SLF001
