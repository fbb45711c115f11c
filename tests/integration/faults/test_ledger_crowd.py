"""Many connections at once on the real ledger: nothing lost, doubled, out of order or stranded."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
import uuid
from collections import defaultdict

from turnstream.connectors.postgres.ledger.ledger import Admission, Finish, Ledger, Moved
from turnstream.connectors.postgres.pools import ledger_pool

PARTITIONS = 3
WORKERS = 4
TURNS = 600
THREADS = 25
BATCH = 16
DEADLINE_S = 60


def command(part: int, offset: int, rng: random.Random) -> Admission:
    thread = f"t{rng.randrange(THREADS)}"
    body = f"{part} {offset} {thread}".encode()
    return Admission(
        kind="start",
        tenant="acme",
        thread_id=thread,
        thread_key=f"acme/{thread}",
        turn_id=uuid.uuid5(uuid.NAMESPACE_OID, body.decode()),
        partition=1,
        src_off=offset,
        body=body,
        body_sha=hashlib.sha256(body).digest(),
        graph="agent",
    )


class Crowd:
    """The input, and what the workers saw of it."""

    def __init__(self, ledger: Ledger, pool) -> None:
        rng = random.Random(7)
        self.ledger = ledger
        self.pool = pool
        self.logs = [
            [command(part, i, rng) for i in range(TURNS // PARTITIONS)]
            for part in range(PARTITIONS)
        ]
        # every turn comes a second time, through another partition
        for part, log in enumerate(self.logs):
            log += [c for c in self.logs[(part + 1) % PARTITIONS] if rng.random() < 0.2]
        self.epochs: set[tuple[str, int]] = set()
        self.ended: list[tuple[str, int, uuid.UUID]] = []
        self.queue: asyncio.Queue[tuple[uuid.UUID, object]] = asyncio.Queue()
        self.deadline = time.monotonic() + DEADLINE_S

    def over(self) -> bool:
        assert time.monotonic() < self.deadline, "not all turns ended in time"
        return len({turn for _, _, turn in self.ended}) == TURNS

    def take(self, worker: uuid.UUID, claims) -> None:
        for claim in claims:
            assert (claim.thread_key, claim.epoch) not in self.epochs, "an epoch was given twice"
            self.epochs.add((claim.thread_key, claim.epoch))
            self.queue.put_nowait((worker, claim))

    async def intake(self, part: int, worker: uuid.UUID, rng: random.Random) -> None:
        """Two of these read each partition."""
        topic, log = "turns", self.logs[part]
        at = await self.ledger.open_position(topic, part, 0)
        while at < len(log):
            batch = log[at : at + rng.randint(1, BATCH)]
            given = await self.ledger.admit(
                topic, part, at, at + len(batch), batch, worker=worker, room=rng.randint(0, 4)
            )
            if isinstance(given, Moved):
                at = given.position
                continue
            at += len(batch)
            self.take(worker, given.claims)

    async def reclaim(self, worker: uuid.UUID, rng: random.Random) -> None:
        while not self.over():
            self.take(worker, await self.ledger.reclaim(worker, rng.randint(1, 6)))
            await asyncio.sleep(0.002)

    async def work(self, rng: random.Random) -> None:
        """Run what was claimed: end it, or give it back, or be too late."""
        while not self.over():
            items = []
            with contextlib.suppress(TimeoutError):
                items.append(await asyncio.wait_for(self.queue.get(), 0.02))
            while items and len(items) < BATCH and not self.queue.empty():
                items.append(self.queue.get_nowait())
            finished: dict[uuid.UUID, list[Finish]] = defaultdict(list)
            for worker, claim in items:
                if claim.outcome is None and rng.random() < 0.1:
                    await self.ledger.release([(claim.thread_key, claim.epoch)])
                    continue
                if claim.outcome is None:
                    await self.settle(claim)
                # those that are not closed here have an outcome and wait for their next owner
                if rng.random() < 0.1:
                    await self.ledger.release([(claim.thread_key, claim.epoch)])
                else:
                    finished[worker].append(Finish(claim.thread_key, claim.epoch, 1))
            for worker, batch in finished.items():
                self.take(worker, await self.ledger.finish(worker, rng.randint(0, 8), batch))

    async def settle(self, claim) -> None:
        done = await self.pool.fetch(
            """
            WITH f AS (UPDATE threads SET base = epoch WHERE thread_key = $1 AND epoch = $2
                         AND epoch >> 40 = timeline() RETURNING head)
            UPDATE turns u SET outcome = '{"status": "completed"}' FROM f
             WHERE u.thread_key = $1 AND u.seq = f.head RETURNING u.seq
            """,
            claim.thread_key,
            claim.epoch,
        )
        for row in done:
            self.ended.append((claim.thread_key, row["seq"], claim.turn_id))

    async def die(self, workers: list[uuid.UUID], rng: random.Random) -> None:
        """Now and then a worker is taken for dead, although it goes on."""
        while not self.over():
            await asyncio.sleep(rng.uniform(0.02, 0.1))
            worker = rng.choice(workers)
            gone = "UPDATE workers SET lease_until = now() WHERE worker = $1 RETURNING 1"
            while await self.pool.fetch(gone, worker):
                await self.ledger.reap()
            await self.pool.execute("SELECT register_worker($1, 'w', interval '1 hour')", worker)


async def test_a_crowd_loses_and_doubles_nothing(ledger_dsn: str) -> None:
    async with ledger_pool(ledger_dsn) as pool:
        crowd = Crowd(Ledger(pool), pool)
        workers = [uuid.uuid4() for _ in range(WORKERS)]
        for worker in workers:
            await pool.execute("SELECT register_worker($1, 'w', interval '1 hour')", worker)
        async with asyncio.TaskGroup() as tasks:
            for i in range(2 * PARTITIONS):
                rng = random.Random(i)
                tasks.create_task(crowd.intake(i % PARTITIONS, workers[i % WORKERS], rng))
            for i, worker in enumerate(workers):
                tasks.create_task(crowd.reclaim(worker, random.Random(50 + i)))
                tasks.create_task(crowd.work(random.Random(100 + i)))
            tasks.create_task(crowd.die(workers, random.Random(9)))
        # what the last round left between outcome and close
        async with asyncio.timeout(DEADLINE_S):
            while await crowd.ledger.open_total():
                claims = await crowd.ledger.reclaim(workers[0], 100)
                items = [Finish(c.thread_key, c.epoch, 1) for c in claims]
                while not crowd.queue.empty():
                    _, claim = crowd.queue.get_nowait()
                    items.append(Finish(claim.thread_key, claim.epoch, 1))
                await crowd.ledger.finish(workers[0], 0, items)

        seqs: dict[str, list[int]] = defaultdict(list)
        for key, seq, _ in crowd.ended:
            seqs[key].append(seq)
        assert len(crowd.ended) == TURNS, "a turn had two outcomes"
        assert all(found == sorted(found) for found in seqs.values()), "turns ran out of order"
        row = await pool.fetchrow("SELECT count(*) AS turns, count(closed_at) AS closed FROM turns")
        assert (row["turns"], row["closed"]) == (TURNS, TURNS)
        assert await pool.fetchval("SELECT count(*) FROM threads WHERE owner IS NOT NULL") == 0
        assert await pool.fetchval("SELECT count(*) FROM ready") == 0
        deadlocks = await pool.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        assert deadlocks == 0
