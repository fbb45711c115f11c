"""Closes a turn that did not come to its end by itself: it failed, took too long or was cancelled.

What had been said stays, in the outcome and in the state, except where the turn is rolled back.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec

from turnstream.graph.run.closing_checkpoints import closing_calls
from turnstream.graph.run.ending import RunOutcome
from turnstream.graph.run.errors import outcome_of
from turnstream.graph.run.last_words import text_in, with_words
from turnstream.graph.run.stopped_calls import say_stopped
from turnstream.schemas.errors import GraphError, TurnError, TurnstreamError
from turnstream.schemas.records.results import Outcome
from turnstream.schemas.text import text_sha256
from turnstream.schemas.unexpected import note

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextvars import Context

    from turnstream.graph.ports.commits import Commits, SaverCall
    from turnstream.graph.run.input import TurnInput
    from turnstream.graph.run.said import Said
    from turnstream.graph.run.turn_graph import TurnGraph

T = TypeVar("T")

CLOSE_TIMEOUT_S = 10.0
"""For the checkpoints that close a turn: the graph's own reducers and routes run there."""


class Closing:
    """Closes one attempt's turn. The graph's own code runs in `context`."""

    def __init__(
        self, turn: TurnInput, graph: TurnGraph, said: Said, commits: Commits, context: Context
    ) -> None:
        self._turn = turn
        self._graph = graph
        self._said = said
        self._commits = commits
        self._context = context
        self._stopped: set[str] = set()  # ids of tool calls that were stopped in the middle

    async def failed(self, error: BaseException) -> RunOutcome:
        """Close the turn with an error that its run raised; see `outcome_of`."""
        ended = outcome_of(
            error,
            input_refused=self._turn.kind == "start"
            and not self._commits.progress.applied
            and not self._graph.unmade,
            turn=self._turn.turn_id,
            graph=self._graph.entry.name,
        )
        return await self.close(ended)

    async def cancelled(self, cause: str) -> RunOutcome:
        """Close a turn that was told to stop."""
        if cause == "rollback":  # nothing of it stays
            ended = Outcome(
                status="cancelled",
                code=cause,
                usage=self._said.usage(),
                lost_usage=self._said.lost_usage(),
            )
            return RunOutcome(outcome=ended)
        if cause == "expired":
            why = "the turn expired while it ran"
            return await self.close(Outcome(status="failed", code=cause, message=why))
        return await self.close(Outcome(status="cancelled", code=cause))

    async def close(self, ended: Outcome) -> RunOutcome:
        """Add to a turn's end what had been said, and the checkpoints that close it."""
        outcome = with_words(ended, self._said)
        if outcome.status == "rejected":
            return RunOutcome(outcome=outcome, instead=self.cancelled)
        if not outcome.text and self._said.last_before:
            outcome = await self._contained(self._with_words_before(outcome)) or outcome
        with suppress(TurnError):  # a state that cannot be stored may be why the turn ends
            await self._commits.flush()
        why = outcome.status if outcome.status == "cancelled" else outcome.code
        await say_stopped(
            self._commits.tool_calls,
            self._said,
            self._stopped,
            turn_id=self._turn.turn_id,
            why=why,
            earlier=self._turn.again or self._turn.kind == "resume",
        )
        calls = await self._contained(self._calls(outcome.code, why)) or ()
        return RunOutcome(outcome=outcome, closing=calls, instead=self.cancelled)

    async def _calls(self, code: str, why: str) -> tuple[SaverCall, ...]:
        if self._graph.unmade:
            return ()
        async with self._graph.closing() as graph:
            return await closing_calls(
                graph,
                self._graph.saver,
                self._turn.runnable_config(),
                turn_id=self._turn.turn_id,
                given=self._turn.given,
                said=tuple(self._said.messages.values()),
                why=why,
                unknown=self._stopped,
                open_ended=code == GraphError.code and not self._graph.entry.native,
            )

    async def _with_words_before(self, outcome: Outcome) -> Outcome:
        """Add what an earlier attempt said last, where this one said nothing."""
        if self._graph.unmade:
            return outcome
        message_id = self._said.last_before
        async with self._graph.closing() as graph:
            state = await graph.aget_state(self._turn.runnable_config(), subgraphs=True)
        text = text_in(state, message_id)
        return msgspec.structs.replace(
            outcome, message_id=message_id if text else "", text=text, sha256=text_sha256(text)
        )

    async def _contained(self, work: Coroutine[object, object, T]) -> T | None:
        """Do what runs the graph's own reducers, validators and routes; None where they fail."""
        task = asyncio.create_task(work, context=self._context.copy())
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                return await task
        except TurnstreamError:
            raise
        except Exception as error:  # noqa: BLE001  the turn has come to its end all the same
            note("closing", error, turn=self._turn.turn_id, graph=self._graph.entry.name)
            return None
