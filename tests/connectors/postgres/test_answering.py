"""What an answer's turn does to the question when it is refused, dies, or is taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.postgres.checkpoints.commit_pool import commit_pool
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
from turnstream.connectors.postgres.pools import saver_pool
from turnstream.schemas.errors import CancelAheadError
from turnstream.schemas.records.events import Interrupt
from turnstream.schemas.records.results import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SCHEMA = '{"type":"integer"}'
REFUSED = Outcome(status="rejected", code="invalid_answer", message="answers.i1: no")


@pytest.fixture
async def asked(scene: Any, ledger_dsn: str) -> AsyncIterator[Any]:
    """A thread whose turn `ask` ended with two open questions, and a saver to end turns with."""
    async with saver_pool(ledger_dsn) as pool, commit_pool(ledger_dsn) as commits:
        saver = FencedSaver(pool, commits)

        async def commit(claim: Any, outcome: Outcome, **rest: Any) -> None:
            session = saver.session(
                thread_key=claim.thread_key,
                turn_id=claim.turn_id,
                origin=claim.origin,
                epoch=claim.epoch,
                log=MemoryEmitter(epoch=claim.epoch),
            )
            await saver.commit_outcome(session, outcome, **rest)

        scene.commit = commit
        scene.one = await scene.worker()
        (claim,) = (await scene.admit(scene.one, scene.start("ask"))).claims
        asks = [
            Interrupt(
                id="i1", payload="1", response_schema=SCHEMA, expires_at=9_000_000_000_000_000
            ),
            Interrupt(id="i2", payload="2"),
        ]
        await commit(claim, Outcome(status="interrupted", interrupts=asks))
        await scene.ledger.finish(scene.one, 1, [(claim.thread_key, claim.epoch, 1)])
        yield scene


async def again(scene: Any, claim: Any) -> Any:
    """The owner dies; the next one's claim."""
    await scene.ledger.release([(claim.thread_key, claim.epoch)])
    (next_,) = await scene.ledger.reclaim(scene.one, 1)
    return next_


async def test_every_owner_of_an_answer_knows_what_it_answers(asked: Any) -> None:
    (claim,) = (await asked.admit(asked.one, asked.resume("go", "i1"))).claims
    assert claim.answering.schemas == {"i1": SCHEMA}
    next_ = await again(asked, claim)
    assert next_.answering == claim.answering
    (start,) = await asked.run(asked.one, next_) or [None]
    assert start is None
    (after,) = (await asked.admit(asked.one, asked.start("new"))).claims
    assert after.answering is None


async def test_a_refused_answer_leaves_the_question_as_it_was(asked: Any) -> None:
    before = await asked.pool.fetchval("SELECT interrupt FROM threads")
    (claim,) = (await asked.admit(asked.one, asked.resume("go", "i1"))).claims
    assert (await asked.ledger.thread("acme/a")).interrupts == ()
    await asked.commit(claim, REFUSED, reopen=claim.answering.stored)
    assert await asked.pool.fetchval("SELECT interrupt FROM threads") == before
    # its owner dies before it is published: the next one tells nobody that it was answered
    next_ = await again(asked, claim)
    assert (next_.outcome.code, next_.resolved) == ("invalid_answer", ())
    await asked.run(asked.one, next_)
    (right,) = (await asked.admit(asked.one, asked.resume("right", "i1", "i2"))).claims
    assert right.outcome is None
    assert right.origin == asked.turn_id("ask")


async def test_it_can_be_refused_although_somebody_rolls_back(asked: Any) -> None:
    """The answer has done nothing: there is nothing to take back, and the question stays."""
    (claim,) = (await asked.admit(asked.one, asked.resume("go", "i1"))).claims
    await asked.admit(asked.one, asked.start("new", on_busy="rollback"))
    await asked.commit(claim, REFUSED, reopen=claim.answering.stored)
    (after,) = await asked.ledger.finish(asked.one, 1, [(claim.thread_key, claim.epoch, 1)])
    assert [r.actor for r in after.resolved] == ["superseded", "superseded"]


@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
async def test_no_question_is_asked_by_a_turn_that_was_to_stop(asked: Any, policy: str) -> None:
    (claim,) = (await asked.admit(asked.one, asked.start("asks"))).claims
    await asked.admit(asked.one, asked.start("new", on_busy=policy))
    asks = Outcome(status="interrupted", interrupts=[Interrupt(id="i9", payload="9")])
    with pytest.raises(CancelAheadError) as ahead:
        await asked.commit(claim, asks)
    assert ahead.value.cause == policy
    assert (await asked.ledger.turn("acme", claim.turn_id)).outcome is None
    assert (await asked.ledger.thread("acme/a")).interrupts == ()
    await asked.commit(claim, Outcome(status="cancelled", code=policy))


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_nothing_but_a_rollback_is_stored_where_one_was_asked_for(
    asked: Any, status: Any
) -> None:
    (claim,) = (await asked.admit(asked.one, asked.start("gone"))).claims
    await asked.admit(asked.one, asked.start("new", on_busy="rollback"))
    with pytest.raises(CancelAheadError):
        await asked.commit(claim, Outcome(status=status))
    await asked.commit(claim, Outcome(status="cancelled", code="rollback"))
    assert (await asked.ledger.turn("acme", claim.turn_id)).rolled_back


async def test_an_answer_that_ends_first_is_kept(asked: Any) -> None:
    (claim,) = (await asked.admit(asked.one, asked.start("done"))).claims
    await asked.admit(asked.one, asked.start("new", on_busy="interrupt"))
    await asked.commit(claim, Outcome(status="completed"))
    assert (await asked.ledger.turn("acme", claim.turn_id)).status == "completed"
