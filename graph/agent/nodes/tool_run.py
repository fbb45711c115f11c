"""One call of one tool: its time-out, its progress, and what a failure tells the model."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from langgraph.errors import GraphBubbleUp

from turnstream.graph.agent.nodes.step import Step
from turnstream.graph.agent.state import AgentSettings
from turnstream.graph.ports.tools import Tool, ToolCallContext
from turnstream.graph.tools.recorded_calls import FAILED, TIMED_OUT
from turnstream.graph.values import to_json
from turnstream.schemas.errors import ToolError, ToolIndeterminateError, ToolTimeoutError
from turnstream.schemas.records.events import ToolProgressed
from turnstream.schemas.text import clean_json
from turnstream.schemas.unexpected import class_name, note


class Reply(msgspec.Struct, frozen=True):
    """The text that the model sees, as the ledger keeps it; with a `code` the call failed."""

    text: str
    code: str = ""


class Call(NamedTuple):
    """One tool call of an answer; `error` says why its arguments cannot be read."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    raw: str
    error: str


@dataclass(frozen=True, slots=True)
class ToolRun:
    """Calls tools for one step of one turn, within the bounds of `settings`."""

    here: Step
    thread_key: str
    settings: AgentSettings

    async def call(self, tool: Tool, arguments: object, call: Call, key: str) -> Reply:
        """Call the tool; whatever it raises, except an interrupt, is a failed reply.

        A `ToolError` is the tool's own statement. After any other error a tool with effects may
        have acted: a lost answer looks like a lost request.
        """
        seconds, turn_id = self._seconds(tool), self.here.turn_id
        progress = _Progress(self.here, call.id)
        context = ToolCallContext(turn_id, self.thread_key, call.id, key, progress)
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return self._finished(await tool.run(arguments, context))
        except GraphBubbleUp:
            raise
        except ToolError as error:
            return self.failed(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return self.failed(_broken(tool, "cancelled"))  # by itself: the turn goes on
        except Exception as error:  # noqa: BLE001
            if deadline.expired():
                return self.failed(_late(tool, seconds))
            # here it is decided that a broken tool does not break the turn
            error_id = note("tool", error, tool=call.name, turn_id=str(turn_id))
            return self.failed(_broken(tool, f"{class_name(error)} (error id {error_id})"))
        finally:
            progress.over = True

    async def find(self, tool: Tool, arguments: object, key: str) -> Reply | None:
        """Return the reply of a call that took effect in an earlier attempt, if the tool knows."""
        if tool.effects is None or tool.effects.find is None:
            return None
        async with asyncio.timeout(self._seconds(tool)):
            output = await tool.effects.find(arguments, key)
        return None if output is None else self._finished(output)

    def _seconds(self, tool: Tool) -> float:
        return min(tool.timeout_s, self.settings.tool_timeout_s)

    def _finished(self, output: object) -> Reply:
        text = output if isinstance(output, str) else to_json(output)
        return Reply(bounded(clean_json(text), self.settings.tool_output_chars_max))

    def failed(self, error: ToolError) -> Reply:
        """Return the reply of a call that failed."""
        text = bounded(clean_json(str(error)), self.settings.tool_output_chars_max)
        return Reply(text, error.code)


def _late(tool: Tool, seconds: float) -> ToolError:
    """Return the error of a call that took too long: its thread or request may go on."""
    if tool.effects is None:
        return ToolTimeoutError(f"the tool took longer than {seconds:g} s")
    return ToolIndeterminateError(TIMED_OUT.format(name=tool.spec.name, seconds=seconds))


def _broken(tool: Tool, why: str) -> ToolError:
    """Return the error of a call that the tool did not end itself."""
    if tool.effects is None:
        return ToolError(f"the tool failed: {why}")
    return ToolIndeterminateError(FAILED.format(name=tool.spec.name, why=why))


class _Progress:
    """Emits how far a tool is, from any thread, until its call is over."""

    def __init__(self, here: Step, tool_call_id: str) -> None:
        self.over = False
        self._here = here
        self._tool_call_id = tool_call_id
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def __call__(self, data: object) -> None:
        text = to_json(data)
        if threading.get_ident() == self._thread:
            self._say(text)
        else:
            self._loop.call_soon_threadsafe(self._say, text)

    def _say(self, text: str) -> None:
        if not self.over:
            here = self._here
            here.emitter.emit(
                ToolProgressed, path=here.path, tool_call_id=self._tool_call_id, data=text
            )


def bounded(text: str, chars_max: int) -> str:
    """Return the text, or its start and a note of what is missing."""
    if len(text) <= chars_max:
        return text
    return f"{text[:chars_max]}\n[cut: the first {chars_max} of {len(text)} characters]"
