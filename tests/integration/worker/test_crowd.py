"""Two workers, 200 threads, 1,000 turns: each once, in its thread's order, nothing stranded."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, defaultdict

from turnstream.schemas.records.events import AttemptStarted, TurnCompleted

THREADS = 200
TURNS = 1_000


async def test_a_thousand_turns_on_two_workers(scene) -> None:
    workers = [scene.process(name, TURNS_MAX="64") for name in ("first", "second")]
    for worker in workers:
        await worker.ready()
    sent: dict[str, list[str]] = defaultdict(list)
    started = time.monotonic()
    pending = []
    for i in range(TURNS):
        thread, turn = f"thread-{i % THREADS}", str(uuid.uuid4())
        sent[thread].append(turn)
        command = {"thread_id": thread, "text": f"tokens={1 + i % 3}", "turn_id": turn}
        times = 2 if i % 20 == 0 else 1  # some are delivered twice
        pending += [scene.send(command, key=thread.encode()) for _ in range(times)]
        if len(pending) >= 50:
            await asyncio.gather(*pending)
            pending.clear()
    await asyncio.gather(*pending)
    await scene.until(lambda: len(scene.results) >= TURNS, 240)
    took = time.monotonic() - started
    print(f"{TURNS} turns in {took:.1f} s: {TURNS / took:.0f} turns/s")

    async with asyncio.timeout(60):
        open_turns = "SELECT count(*) FROM turns WHERE closed_at IS NULL"
        while await scene.db.fetchval(open_turns):
            await asyncio.sleep(0.05)
    assert await scene.db.fetchval("SELECT count(*) FROM turns") == TURNS
    assert await scene.db.fetchval("SELECT count(*) FROM ready") == 0
    assert await scene.db.fetchval("SELECT count(*) FROM threads WHERE owner IS NOT NULL") == 0
    assert not scene.letters

    await scene.until(lambda: sum(r.terminal for _, _, r in scene.log) >= TURNS)
    terminals = Counter(r.turn_id for _, _, r in scene.log if r.terminal)
    assert len(terminals) == TURNS
    assert set(terminals.values()) == {1}
    assert Counter(result.turn_id for result in scene.results) == terminals
    begun: dict[str, list[str]] = defaultdict(list)
    by = Counter()
    for _, _, record in sorted(scene.log, key=lambda entry: entry[:2]):
        if isinstance(record, AttemptStarted):
            begun[record.thread_id].append(record.turn_id)
            by[record.worker] += 1
    assert begun == sent
    assert len(by) == 2, "one of the two workers did nothing"
    for thread, turns in sent.items():
        fold = scene.folds[f"default/{thread}"]
        for turn in turns:
            view = fold.turns[turn]
            assert view.done
            assert isinstance(view.terminal, TurnCompleted)
            assert view.gaps == 0
            assert not view.partial
    seqs = await scene.db.fetch("SELECT thread_key, turn_id FROM turns ORDER BY seq")
    in_ledger: dict[str, list[str]] = defaultdict(list)
    for row in seqs:
        in_ledger[row["thread_key"].partition("/")[2]].append(str(row["turn_id"]))
    assert in_ledger == sent
