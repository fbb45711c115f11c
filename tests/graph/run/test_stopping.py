"""A turn that is told to stop is silent before its end waits for the log (W7).

Else the ledger's outcome has less text than the log: readers would show words that the next turn's
model never sees.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.graph import MessagesState
from langgraph.runtime import Runtime

from tests.graph.run.test_limits import native
from tests.graph.run.test_runner import Thread, chain, opened, start, until
from turnstream.graph.run.control import TurnControl
from turnstream.graph.run.deadlines import TurnLimits
from turnstream.graph.run.runner import run_turn
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import MessageStarted, TokensEmitted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def thread(ledger_dsn: str) -> AsyncIterator[Thread]:
    async with opened(ledger_dsn) as made:
        yield made


class Talking:
    """A native node that says a word, and another one whenever `more` is set."""

    def __init__(self, *, stubborn: bool) -> None:
        self.stubborn = stubborn
        self.more = asyncio.Event()
        self.spoke = self.stopped = False

    async def __call__(self, state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        said, info = runtime.context, runtime.execution_info
        assert info is not None
        where = {"path": info.task_id, "message_id": str(uuid.uuid4())}
        said.emit(MessageStarted, **where)
        try:
            while True:
                said.tokens(**where, block=0, kind="text", text="word ")
                self.spoke = True
                await self.more.wait()
                self.more.clear()
        finally:
            self.stopped = True
            if self.stubborn:
                said.tokens(**where, block=0, kind="text", text="last words")


@pytest.mark.parametrize(
    ("how", "stubborn"), [("cancel", False), ("cancel", True), ("timeout", False)]
)
async def test_nothing_is_said_once_the_end_is_decided(
    thread: Thread, how: str, *, stubborn: bool
) -> None:
    turn = start(thread.new_turn())
    node, control = Talking(stubborn=stubborn), TurnControl()
    graph = native(chain(MessagesState, node=node))
    session = thread.attempt(turn.turn_id)
    thread.log.auto = False
    with session.bound():
        limits = TurnLimits(turn_left_s=0.5) if how == "timeout" else TurnLimits()
        running = asyncio.create_task(
            run_turn(graph, turn, thread.log, thread.saver, control, commits=session, limits=limits)
        )
        await until(lambda: node.spoke)
        if how == "cancel":
            control.cancel("user")
        # the end waits for the log here, and the node may go on if it was not stopped
        await until(lambda: (session.hold.stopped and thread.log.waited_for) or running.done())
        node.more.set()
        await until(lambda: node.stopped or not node.more.is_set())
        thread.log.auto = True
        thread.log.ack(thread.log.n)
        ended = await running
        assert ended.outcome is not None
        await thread.saver.commit_outcome(session, ended.outcome, ended.closing)
    assert ended.outcome.status == ("cancelled" if how == "cancel" else "failed")
    (shown,) = transcript(thread.view(turn.turn_id)).messages
    assert shown.text == ended.outcome.text == "word "
    said = [event for event in thread.log.events if isinstance(event, TokensEmitted)]
    (row,) = thread.sql("SELECT keep_n, high_n FROM threads")
    assert all(event.n <= row["keep_n"] for event in said)
    assert node.stopped
