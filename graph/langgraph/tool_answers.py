"""Gives the answer to a tool's question to the call that asked, and to no other call.

LangGraph numbers the questions of one task in the order in which they are asked. The calls of a
plain `ToolNode` share a task and run at the same time, so the order may differ in each run. Here an
answer carries the id of the call that asked, and each call counts only its own questions.
"""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langgraph._internal._constants import CONFIG_KEY_SEND, RESUME
from langgraph.config import get_config
from langgraph.pregel import _algo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from langgraph._internal._scratchpad import PregelScratchpad

ASKER, ANSWER = "__turnstream_asker__", "__turnstream_answer__"

CALL: ContextVar[str] = ContextVar("turnstream_tool_call", default="")
"""Id of the tool call whose code runs, "" outside of tools."""

# LangGraph makes one for each task; it has no public name, a test holds that it works
_make = _algo._scratchpad  # noqa: SLF001


def signed(answers: Mapping[str, object], askers: Mapping[str, str]) -> dict[str, Any]:
    """Return answers by interrupt id, with the call that asked where one did."""
    return {
        key: {ASKER: askers[key], ANSWER: value} if key in askers else value
        for key, value in answers.items()
    }


class Answers(list[Any]):
    """A task's answers as they are stored. Reading one returns it as it was given."""

    def __getitem__(self, index: Any) -> Any:
        """Return one answer; of a slice all of them, because LangGraph stores the last slice.

        Another call may have taken an answer behind it.
        """
        if isinstance(index, slice) and any(self.askers):
            return Answers(super().__iter__())
        return _given(super().__getitem__(index))

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the answers."""
        return map(_given, super().__iter__())

    @property
    def askers(self) -> list[str]:
        """Return the calls that asked, "" for code outside of tools."""
        return [one[ASKER] if _is_signed(one) else "" for one in super().__iter__()]


class CallCounter:
    """Numbers the questions of a task, for each call apart."""

    def __init__(self, answers: Answers, plain: Callable[[], int]) -> None:
        self._answers = answers
        self._plain = plain
        self._asked: Counter[str] = Counter()
        self._taken = 0

    def __call__(self) -> int:
        """Return the place of the running call's next question among the task's answers."""
        call, askers = CALL.get(), self._answers.askers
        if not any(askers) and (not call or askers):
            return self._plain()  # unsigned answers count as LangGraph counts them
        own = [place for place, asker in enumerate(askers) if call and asker == call]
        if (number := self._asked[call]) < len(own):
            self._asked[call] += 1
            return own[number]
        free = [place for place, asker in enumerate(askers) if not asker]
        if self._taken < len(free):  # of the node's own code, maybe behind a tool that it called
            self._taken += 1
            return free[self._taken - 1]
        if askers:  # else those that their calls have not come to yet would be asked for again
            get_config()["configurable"][CONFIG_KEY_SEND]([(RESUME, self._answers)])
        return len(askers)


def apart(scratchpad: PregelScratchpad) -> PregelScratchpad:
    """Return a task's scratchpad that numbers questions for each call apart."""
    answers = Answers(list.__iter__(scratchpad.resume))
    counter = CallCounter(answers, scratchpad.interrupt_counter)
    return replace(scratchpad, resume=answers, interrupt_counter=counter)


def _scratchpad(*args: Any, **kwargs: Any) -> PregelScratchpad:
    return apart(_make(*args, **kwargs))


def install() -> None:
    """Put it in LangGraph's place; safe to repeat."""
    _algo._scratchpad = _scratchpad  # noqa: SLF001


def _is_signed(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {ASKER, ANSWER}


def _given(value: Any) -> Any:
    return value[ANSWER] if _is_signed(value) else value
