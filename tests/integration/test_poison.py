"""Turns that kill who runs them, break, take too long or fail on the way; on real parts."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from datetime import timedelta
from pathlib import Path

from turnstream.graph.langgraph.catalog import Catalog, GraphEntry
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.events import (
    TaskRetried,
    TokensEmitted,
    TurnCompleted,
    TurnFailed,
)
from turnstream.streams.app.graphs import model_of, worker_catalog
from turnstream.streams.app.worker import open_worker

GRAPHS = Path(__file__).parent / "graphs" / "deadly.json"


async def test_a_turn_that_kills_its_workers_is_parked_and_its_neighbours_go_on(scene) -> None:
    """Two workers; who dies is started again, as an orchestrator would."""
    environment = {"LANGGRAPH_JSON": str(GRAPHS)}
    workers = [scene.process(f"w{i}", **environment) for i in range(2)]
    for worker in workers:
        await worker.ready()
    deaths = 0

    async def orchestrate() -> None:
        nonlocal deaths
        while True:
            for i, worker in enumerate(workers):
                if worker.process.poll() is not None:
                    deaths += 1
                    workers[i] = scene.process(f"w{i}-{deaths}", **environment)
            await asyncio.sleep(0.1)

    starting = asyncio.create_task(orchestrate())
    try:
        healthy = {f"h{i}": await scene.start(f"h{i}", "tokens=125 rate=25") for i in range(3)}
        await scene.until(lambda: all(scene.view(t, turn) for t, turn in healthy.items()))
        turn = await scene.start("bad", "boom", graph="deadly")
        after = await scene.start("bad", "tokens=3")
        view = await scene.done("bad", turn, 120)
        assert isinstance(view.terminal, TurnFailed)
        assert (view.terminal.code, view.terminal.retryable) == ("poisoned", False)
        assert "the last: worker w" in view.terminal.message
        assert view.terminal.message.startswith("parked after 4 attempts")
        # what it had committed before is kept, what it said after that is not
        assert view.terminal.text == "so far so good"
        assert [message.text for message in transcript(view).messages] == ["so far so good"]
        # its thread and its neighbours go on
        assert isinstance((await scene.done("bad", after, 60)).terminal, TurnCompleted)
        for thread, other in healthy.items():
            shown = await scene.done(thread, other, 90)
            assert isinstance(shown.terminal, TurnCompleted), shown.terminal
            assert not shown.gaps
        await scene.until(lambda: deaths >= 4)  # they are looked for now and then
        assert deaths == 4
        (result, *_) = await scene.until(lambda: [r for r in scene.results if r.turn_id == turn])
        assert (result.status, result.code, result.attempts) == ("failed", "poisoned", 5)
        logs = "".join(process.log.read_text() for process in scene.processes)
        assert "turn_suspect" in logs
        assert "turn_parked" in logs
    finally:
        starting.cancel()


class Moody(Catalog):
    """Has a graph that cannot be looked up for a while: a mistake of ours, or of what is around."""

    broken = True

    def get(self, name: str) -> GraphEntry | None:
        if name == "moody":
            if self.broken:
                raise RuntimeError("it is broken")
            name = "agent"
        return super().get(name)

    def __contains__(self, name: object) -> bool:
        return name == "moody" or super().__contains__(name)


async def test_an_attempt_that_breaks_is_counted_and_waits(scene) -> None:
    async with model_of(scene.settings) as model:
        catalog = Moody({entry.name: entry for entry in worker_catalog(scene.settings, model)})
        async with open_worker(scene.settings, name="in", catalog=catalog) as worker:
            running = asyncio.create_task(worker.run())
            await scene.until(lambda: not worker.not_ready())
            turn = await scene.start("t1", "tokens=5", graph="moody")
            await scene.until(lambda: worker.roster.counts.broken == 1)
            later = "UPDATE ready SET at = at + interval '1 h' RETURNING at - now()"
            async with asyncio.timeout(60):
                while (waits := await scene.db.fetchval(later)) is None:
                    await asyncio.sleep(0.005)
            assert waits > timedelta(hours=1)
            row = await scene.db.fetchrow("SELECT * FROM threads")
            assert row["attempts"] == 1
            # clients may see it: the text of an error is for the log
            assert re.fullmatch(r"RuntimeError \(error id [0-9a-f]{8}\)", row["trouble"])
            healthy = await scene.start("t2", "tokens=5")
            assert isinstance((await scene.done("t2", healthy)).terminal, TurnCompleted)
            assert worker.roster.counts.broken == 1, "it waits"
            await scene.db.execute("UPDATE ready SET at = now()")
            await scene.until(lambda: worker.roster.counts.broken == 2)
            catalog.broken = False
            await scene.until(lambda: not worker.roster.running)
            await scene.db.execute("UPDATE ready SET at = now()")
            assert isinstance((await scene.done("t1", turn)).terminal, TurnCompleted)
            assert (await scene.closed(turn))["attempts"] == 3
            worker.stop()
            await running


async def test_a_turn_and_a_step_that_take_too_long_fail_by_name(scene) -> None:
    async with scene.worker(turn_timeout_s=2.0):
        turn = await scene.start("t1", "tokens=500 rate=50")
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnFailed)
        assert view.terminal.code == "turn_timeout"
        shown = transcript(view).messages[-1].text
        assert view.terminal.text == shown != ""
        row = await scene.closed(turn)
        assert json.loads(row["outcome"])["text"] == shown
    async with scene.worker(step_timeout_s=1.0):
        turn = await scene.start("t1", "tokens=500 rate=50")
        view = await scene.done("t1", turn)
        assert view.terminal.code == "step_timeout"
        assert (await scene.until(lambda: scene.results[1:]))[0].retryable is True
        # the thread goes on, and its model sees what had been said
        after = await scene.start("t1", "tokens=3")
        assert isinstance((await scene.done("t1", after)).terminal, TurnCompleted)
        assert shown in str(scene.model.requests[-1].messages)


async def test_a_cut_answer_is_said_again_and_readers_see_one(scene) -> None:
    async with scene.worker(model_backoff_s=0.01) as worker:
        turn = await scene.start("t1", "tokens=40 rate=100 cut_after=20 error_times=1")
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)
        (retried,) = [r for _, _, r in scene.log if isinstance(r, TaskRetried)]
        assert retried.error.startswith("model_stream_cut")
        (message,) = transcript(view).messages
        assert message.intact
        assert len(message.text.split()) == 40
        assert view.terminal.text == message.text
        await scene.until(lambda: worker.roster.finishes.finished == 1)
        result = (await scene.until(lambda: scene.results))[0]
        assert result.usage[0].output_tokens == 40


async def test_the_result_counts_what_earlier_attempts_spent(scene) -> None:
    """The first worker dies in the second model call; the first call's answer stays."""
    first = scene.process("first")
    await first.ready()
    turn = str(uuid.uuid4())
    await scene.start(
        "t1", 'tool=current_time({"zone":"Asia/Seoul"}) tokens=60 rate=40', turn_id=turn
    )
    await scene.until(
        lambda: (v := scene.view("t1", turn)) and sum(
            isinstance(i, TokensEmitted) and i.kind == "text" for i in v.items
        ) > 5
    )  # fmt: skip
    first.kill()
    async with scene.worker():
        view = await scene.done("t1", turn)
        spent = [item.usage for item in view.items if getattr(item, "usage", None)]
        assert len(spent) == 2
        assert isinstance(view.terminal, TurnCompleted)
        result = (await scene.until(lambda: scene.results))[0]
        assert result.usage == view.terminal.usage
        assert result.usage[0].output_tokens == sum(usage.output_tokens for usage in spent)
        assert result.lost_usage == []
