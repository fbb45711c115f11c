"""The real ledger functions beside the model of the rules, under random schedules.

Two input partitions with two intakes each, three workers, attempts that live on after they were
fenced, busy policies, expiry, and restores: the database goes back to an earlier state on a higher
timeline. Checkpoints and outcomes go through the real saver. After every step the rows of the
ledger, and the checkpoints, equal the model's, which is that of `tests/model` for each thread.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import os
import random
import uuid
from collections import Counter
from datetime import UTC, datetime

import asyncpg
import pytest
from psycopg_pool import AsyncConnectionPool

from tests.contracts.threads_model import Command, Model
from turnstream.connectors.memory.emitter import MemoryEmitter
from turnstream.connectors.postgres.checkpoints.commit_pool import CommitPool
from turnstream.connectors.postgres.checkpoints.commits import Session
from turnstream.connectors.postgres.checkpoints.saver import FencedSaver
from turnstream.connectors.postgres.checkpoints.statements import CheckpointRow, Fence, Rows
from turnstream.connectors.postgres.ledger.ledger import (
    Admission,
    Closed,
    Finish,
    Ledger,
    Moved,
    Reused,
)
from turnstream.connectors.postgres.pools import LedgerConnection
from turnstream.schemas.errors import CancelAheadError, FencedError
from turnstream.schemas.records.events import Interrupt
from turnstream.schemas.records.results import Outcome

pytestmark = pytest.mark.promises("P1", "P2", "P6", "P12")

THREADS = ("acme/a", "acme/b")
TURNS = tuple(f"t{i}" for i in range(1, 15))
TABLES = (
    "threads", "turns", "ready", "ended", "expiries", "expired_interrupts", "early_cancels",
    "intake", "workers", "checkpoints",
)  # fmt: skip
FAR = datetime(2100, 1, 1, tzinfo=UTC)
FAR_US = int(FAR.timestamp() * 1_000_000)


def turn_uuid(name: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_OID, name)


NAMES = {turn_uuid(name): name for name in TURNS}


# -- the schedules --------------------------------------------------------------------------------

# how often each step is taken
STEPS = {
    "publish": 5,
    "admit": 8,
    "end": 3,
    "step": 4,
    "expire": 2,
    "finish": 3,
    "run_turn": 8,
    "release": 3,
    "reclaim": 4,
    "die": 1,
    "join": 2,
    "sweep": 1,
    "save": 1,
    "restore": 1,
}
STEPS_MAX = 80


class Schedule:
    """One random schedule; the seed repeats it exactly."""

    def __init__(
        self, runner: asyncio.Runner, pool: asyncpg.Pool, saver: FencedSaver, seed: int
    ) -> None:
        self.runner = runner
        self.pool = pool
        self.saver = saver
        self.rng = random.Random(seed)
        self.ledger = Ledger(self.pool)
        self.logs: list[list[Command]] = [[], []]
        self.intakes = [[0, 0], [0, 0]]
        self.attempts: list[tuple[str, int]] = []
        self.turn_of: dict[tuple[str, int], str] = {}
        self.checkpoints = 0
        self.order: list[tuple[str, int, bool]] = []
        self.ids = [uuid.uuid4() for _ in range(3)]
        self.saved: list[tuple[Model, dict[str, str]]] = []
        self.seen: Counter[str] = Counter()

    def run(self) -> None:
        self.begin()
        steps = self.rng.choices(list(STEPS), weights=STEPS.values(), k=STEPS_MAX)
        for step in steps:
            getattr(self, step)()
            self.rows_equal_the_models()
            self.no_thread_is_stranded()
            self.turns_of_a_thread_start_in_order()

    # what is drawn

    def command(self) -> Command:
        draw = self.rng.choice
        turn = draw(TURNS)
        # a turn has its thread, with few exceptions; the first thread gets most of them
        home = THREADS[TURNS.index(turn) % 3 == 0]
        thread = home if self.rng.random() < 0.95 else draw(THREADS)
        kind = draw(["start", "start", "start", "resume", "resume", "cancel"])
        if kind == "cancel":
            heads = [(t.rows.head, key) for key, t in self.model.threads.items() if t.rows.head]
            if heads and self.rng.random() < 0.5:
                turn, thread = draw(heads)
            return Command(kind, turn, thread)
        if kind == "resume":
            return Command(kind, turn, thread, draw([("i1",), ("i2",), ("i1", "i2"), ()]))
        policy = draw(["enqueue"] * 4 + ["reject", "interrupt", "rollback"])
        known, expires = self.rng.random() < 0.9, self.rng.random() < 0.3
        return Command(kind, turn, thread, (), policy, known, expires)

    def worker(self) -> int:
        return self.rng.randrange(3)

    def room(self) -> int:
        return self.rng.choice([0, 1, 1, 2, 2])

    def asks(self) -> tuple[str, ...]:
        return self.rng.choice([(), (), ("i1",), ("i1", "i2")])

    def attempt(self) -> tuple[str, int]:
        """Mostly one that holds its thread, sometimes any."""
        holds = [a for a in self.attempts if self.model.own(*a)]
        return self.rng.choice(holds if holds and self.rng.random() < 0.7 else self.attempts)

    # doing it

    def do(self, coroutine):
        return self.runner.run(coroutine)

    def sql(self, text: str, *values):
        return self.do(self.pool.fetch(text, *values))

    def begin(self) -> None:
        self.clear()
        self.sql("INSERT INTO intake VALUES ('turns', 0, 0), ('turns', 1, 0)")
        self.model = Model(timeline=self.do(self.ledger.timeline()))
        self.join()
        self.save()

    # commands come in, and intakes that overlap read them

    def publish(self) -> None:
        log = self.rng.choice(self.logs)
        for _ in range(self.rng.randint(1, 4)):
            c = self.command()
            known = [x for log in self.logs for x in log if x.turn == c.turn and x.kind != "cancel"]
            # mostly the same body under the same id, as redelivery gives it
            again = c.kind != "cancel" and known and self.rng.random() < 0.8
            log.append(known[0] if again else c)

    def admit(self) -> None:
        part, intake = self.rng.choice([(p, i) for p in (0, 1) for i in (0, 1)])
        worker, room = self.worker(), self.room()
        at = self.intakes[part][intake]
        batch = self.logs[part][at : at + self.rng.randint(0, 4)]
        offsets = list(range(at, at + len(batch)))
        while True:
            commands = {i: self.logs[part][i] for i in offsets}
            expected = self.model.admit(part, at, at + len(batch), commands, worker, room)
            given = self.do(
                self.ledger.admit(
                    "turns", part, at, at + len(batch),
                    [self.admission(command, i) for i, command in commands.items()],
                    worker=self.ids[worker], room=room,
                )
            )  # fmt: skip
            if not isinstance(given, Reused):
                break
            assert expected == ("reused", given.offsets)
            self.seen["reused"] += 1
            offsets = [i for i in offsets if i not in given.offsets]
        if isinstance(given, Moved):
            assert expected == ("moved", given.position)
            self.intakes[part][intake] = given.position
            self.seen["moved"] += 1
            return
        self.intakes[part][intake] = at + len(batch)
        claims, ended, woken, cancelled = expected
        self.took(given.claims, claims)
        assert [NAMES[e.turn_id] for e in given.ended] == ended
        self.seen["ended"] += len(ended)
        assert list(given.woke) == woken
        assert list(given.cancelled) == cancelled

    def admission(self, c: Command, offset: int) -> Admission:
        asks = [c.kind, c.turn, c.thread, c.answers, c.policy, c.known, c.expires]
        body = json.dumps(asks).encode()
        return Admission(
            kind=c.kind,
            tenant="acme",
            thread_id=c.thread[5:],
            thread_key=c.thread,
            turn_id=turn_uuid(c.turn),
            partition=1,
            src_off=offset,
            body=body,
            body_sha=hashlib.sha256(body).digest(),
            graph="agent",
            known=c.known,
            on_busy=c.policy,
            expires_at=FAR if c.expires else None,
            answers=c.answers,
            actor="ann",
        )

    def took(self, given, expected) -> None:
        seen = [
            (c.thread_key, NAMES[c.turn_id], c.epoch, NAMES[c.origin],
             said(c.outcome), c.cancel, c.started_again,
             tuple(tuple(r) for r in c.resolved), c.attempts, bool(c.parked))
            for c in given
        ]  # fmt: skip
        assert seen == expected
        for c in given:
            self.count(c)
            assert all(c.epoch > epoch for key, epoch in self.attempts if key == c.thread_key)
            self.attempts.append((c.thread_key, c.epoch))
            self.turn_of[c.thread_key, c.epoch] = NAMES[c.turn_id]
            if not c.started_again:
                front = self.model.commands[NAMES[c.turn_id]].front
                self.order.append((c.thread_key, c.seq, front))

    def count(self, c) -> None:
        self.seen["claims"] += 1
        self.seen["again"] += c.started_again
        self.seen["published again"] += bool(c.started_again and c.outcome)
        self.seen["suspect"] += c.started_again and c.attempts > 2
        self.seen["parked"] += bool(c.parked)
        self.seen["cancel seen"] += bool(c.cancel)
        self.seen["rejected"] += bool(c.outcome and c.outcome.status == "rejected")
        self.seen["late"] += said(c.outcome) == "rejected expired"
        self.seen["superseded"] += any(r.actor == "superseded" for r in c.resolved)
        self.seen["resumed"] += bool(c.kind == "resume" and c.resolved)
        self.seen = +self.seen

    # attempts, also those that were fenced long ago

    def end(self) -> None:
        if self.attempts:
            self.settle(*self.attempt(), self.asks())

    def run_turn(self) -> None:
        """What happens most: an attempt ends its turn and closes it."""
        if self.attempts:
            attempt = self.attempt()
            self.settle(*attempt, self.asks())
            if self.rng.random() < 0.2:
                self.save()
            else:
                self.close([attempt], self.worker(), self.room())

    def settle(self, key: str, epoch: int, asks: tuple[str, ...]) -> None:
        """End a turn, and do what a cancel that is ahead asks for."""
        if self.model.over(key, epoch):
            return
        holds = self.model.own(key, epoch)
        status = self.rng.choice(["completed", "failed", "cancelled"])
        expires = self.rng.random() < 0.5
        if asks:
            status = "interrupted"
        elif holds and holds.cancel == "rollback" and self.rng.random() < 0.5:
            status = "rollback"
        turn = self.turn_of[key, epoch]
        found = self.model.end(key, epoch, turn, status, asks, expires=expires)
        assert self.commit(key, epoch, status, asks, expires=expires) == found
        self.seen["fenced"] += found == "fenced"
        self.seen["ahead"] += found not in ("", "fenced")
        if found not in ("", "fenced"):
            status = "rollback" if found == "rollback" else "cancelled"
            assert self.model.end(key, epoch, turn, status, (), expires=False) == ""
            assert self.commit(key, epoch, status, ()) == ""
        self.seen["rolled back"] += status == "rollback" and found != "fenced"

    def commit(
        self, key: str, epoch: int, status: str, asks: tuple[str, ...], *, expires: bool = False
    ) -> str:
        """Do what an attempt does at its turn's end."""
        outcome = Outcome(
            status="cancelled" if status == "rollback" else status,
            code="rollback" if status == "rollback" else "",
            interrupts=[
                Interrupt(id=one, payload="1", expires_at=FAR_US if expires else 0) for one in asks
            ],
        )
        try:
            self.do(self.saver.commit_outcome(self.session(key, epoch), outcome))
        except FencedError:
            return "fenced"
        except CancelAheadError as ahead:
            return ahead.cause
        return ""

    def session(self, key: str, epoch: int) -> Session:
        turn = turn_uuid(self.turn_of[key, epoch])
        log = MemoryEmitter(epoch=epoch)
        return self.saver.session(thread_key=key, turn_id=turn, origin=turn, epoch=epoch, log=log)

    def step(self) -> None:
        """An attempt commits a checkpoint; the root's, or a nested graph's."""
        if not self.attempts:
            return
        key, epoch = self.attempt()
        if self.model.over(key, epoch):
            return
        holds = self.model.own(key, epoch)
        self.checkpoints += 1
        checkpoint = f"c{self.checkpoints:05}"
        turn = self.turn_of[key, epoch]
        about = json.dumps({"run_id": str(turn_uuid(turn))})
        ns = self.rng.choice(["", "node:1"])
        rows = Rows(checkpoints=[CheckpointRow(ns, checkpoint, None, "{}", about)])
        fence = Fence(thread_key=key, epoch=epoch, keep_n=0, high_n=0, keep=b"[]", first_off=None)
        done = self.do(self.saver._execute(key, rows, fence))
        assert (done is not None) == self.model.step(key, epoch, turn, checkpoint)
        if done is not None:
            assert done[0] == holds.cancel  # every statement returns it

    def expire(self) -> None:
        """Some of what has a time is over."""
        due = [one for one in sorted(self.model.expiries) if self.rng.random() < 0.4]
        for i, (name, what) in enumerate(due):
            self.sql(
                "UPDATE expiries SET at = now() - make_interval(secs => $3)"
                " WHERE turn_id = $1 AND what = $2",
                turn_uuid(name), what, len(due) - i,
            )  # fmt: skip
        given = self.do(self.ledger.expire(100))
        ended, cancelled = self.model.expire(due)
        assert [NAMES[e.turn_id] for e in given.ended] == ended
        assert list(given.cancelled) == cancelled
        self.seen["expired"] += len(ended)
        self.seen["expired running"] += len(cancelled)

    def finish(self) -> None:
        if self.attempts:
            drawn = dict(self.attempt() for _ in range(self.rng.randint(1, 3)))
            self.close(sorted(drawn.items()), self.worker(), self.room())

    def close(self, items: list[tuple[str, int]], worker: int, room: int) -> None:
        expected = self.model.finish(worker, room, items)
        given = self.do(
            self.ledger.finish(self.ids[worker], room, [Finish(k, e, 1) for k, e in items])
        )
        self.took(sorted(given, key=lambda c: c.thread_key), sorted(expected))

    def release(self) -> None:
        if self.attempts:
            key, epoch = self.attempt()
            expected = [key] if self.model.release(key, epoch) else []
            assert self.do(self.ledger.release([(key, epoch)])) == expected

    # workers, sweeps, restores

    def reclaim(self) -> None:
        worker, room = self.worker(), self.room()
        given = self.do(self.ledger.reclaim(self.ids[worker], room))
        self.took(given, self.model.reclaim(worker, room))
        # a suspect that was put off would wait for a while
        self.sql("UPDATE ready SET at = clock_timestamp() WHERE at > clock_timestamp()")

    def die(self) -> None:
        worker = self.worker()
        self.sql("UPDATE workers SET lease_until = now() WHERE worker = $1", self.ids[worker])
        self.do(self.ledger.reap())
        self.model.reap(worker, counts=True)

    def join(self) -> None:
        for worker in range(3):
            self.register(worker)

    def register(self, worker: int) -> None:
        if worker not in self.model.workers:
            self.ids[worker] = uuid.uuid4()
            self.model.workers.add(worker)
            self.sql("SELECT register_worker($1, 'w', interval '1 hour')", self.ids[worker])

    def sweep(self) -> None:
        stale = self.rng.random() < 0.3
        self.sql("UPDATE ended SET at = now()")
        given = self.do(self.ledger.sweep(10))
        assert {NAMES[e.turn_id] for e in given} == self.model.unclaimed()
        for e in given:
            timeline = e.timeline - stale
            closed = self.do(
                self.ledger.close_ended([Closed(e.thread_key, e.turn_id, 1)], timeline)
            )
            assert closed == (not stale)
            self.model.close_ended(NAMES[e.turn_id], timeline)

    def clear(self) -> None:
        for table in TABLES:
            self.sql(f"DELETE FROM {table}")

    def save(self) -> None:
        rows = {t: self.sql(f"SELECT jsonb_agg(to_jsonb(x)) FROM {t} x")[0][0] for t in TABLES}
        self.saved.append((copy.deepcopy(self.model), rows))

    def restore(self) -> None:
        late = self.rng.random() < 0.5
        i = len(self.saved) - 1 if late else self.rng.randrange(len(self.saved))
        saved, rows = self.saved[i]
        timeline = self.model.timeline
        self.model = copy.deepcopy(saved)
        self.model.timeline = timeline
        self.model.rise()
        self.clear()
        for table in TABLES:
            override = "OVERRIDING SYSTEM VALUE" if table == "turns" else ""
            self.sql(
                f"INSERT INTO {table} {override}"
                f" SELECT * FROM jsonb_populate_recordset(NULL::{table}, $1::jsonb)",
                rows[table] or "[]",
            )
        self.sql("SELECT raise_timeline()")
        # nobody's life outlasts the timeline
        self.do(self.ledger.reap())
        for worker in sorted(self.model.workers):
            self.model.reap(worker, counts=False)
        # in which order the dead are found is nobody's promise
        for key in sorted(self.model.threads, key=lambda key: self.model.threads[key].ready or 0):
            self.sql("UPDATE ready SET at = clock_timestamp() WHERE thread_key = $1", key)
        self.ids = [uuid.uuid4() for _ in range(3)]
        self.join()
        self.order.clear()

    # what must hold after every step

    def rows_equal_the_models(self) -> None:
        threads = {
            r["thread_key"]: (
                r["epoch"], r["owner"], NAMES.get(r["head_id"]), r["cancel"],
                json.loads(r["interrupt"])["ids"] if r["interrupt"] else None, r["waits"],
                r["attempts"],
            )
            for r in self.sql(
                "SELECT t.*, h.turn_id AS head_id, EXISTS (SELECT FROM ready r"
                " WHERE r.thread_key = t.thread_key) AS waits"
                " FROM threads t"
                " LEFT JOIN turns h ON h.thread_key = t.thread_key AND h.seq = t.head"
            )
        }  # fmt: skip
        assert threads == {
            key: (
                t.rows.epoch, None if t.rows.owner is None else self.ids[t.rows.owner],
                t.rows.head or None, t.cancel, list(t.ids) or None, t.ready is not None, t.attempts,
            )
            for key, t in self.model.threads.items()
        }  # fmt: skip
        assert self.model.broken() == {}
        turns = {
            NAMES[r["turn_id"]]: (
                r["thread_key"], r["outcome"] and json.loads(r["outcome"])["status"],
                NAMES[r["origin"]], r["closed_at"] is not None,
            )
            for r in self.sql("SELECT * FROM turns")
        }  # fmt: skip
        assert turns == {
            row.turn: (key, thread.status(row), row.origin, row.closed)
            for key, thread, row in self.model.turns
        }
        assert {(NAMES[r["turn_id"]], r["what"]) for r in self.sql("SELECT * FROM expiries")} == (
            self.model.expiries
        )
        assert sorted(
            (r["thread_id"], r["turn"], r["checkpoint_id"])
            for r in self.sql("SELECT *, metadata->>'run_id' AS turn FROM checkpoints")
        ) == sorted(
            (key, str(turn_uuid(turn)), checkpoint)
            for key, t in self.model.threads.items()
            for turn, checkpoint in t.checkpoints
        )
        assert [r["next_off"] for r in self.sql("SELECT * FROM intake ORDER BY partition")] == (
            self.model.positions
        )

    def no_thread_is_stranded(self) -> None:
        assert not self.sql(
            """
            SELECT thread_key FROM threads t
             WHERE owner IS NULL
               AND NOT EXISTS (SELECT FROM ready r WHERE r.thread_key = t.thread_key)
               AND (head IS NOT NULL OR EXISTS (
                    SELECT FROM turns u WHERE u.thread_key = t.thread_key AND u.outcome IS NULL))
            """
        )
        assert not self.sql(
            "SELECT 1 FROM threads t WHERE owner IS NOT NULL AND (head IS NULL"
            " OR EXISTS (SELECT FROM ready r WHERE r.thread_key = t.thread_key)"
            " OR NOT EXISTS (SELECT FROM workers w WHERE w.worker = t.owner))"
        )

    def turns_of_a_thread_start_in_order(self) -> None:
        """Those that go to the front among themselves, and so the others."""
        for key in THREADS:
            for at_front in (False, True):
                seqs = [seq for k, seq, front in self.order if (k, front) == (key, at_front)]
                assert seqs == sorted(set(seqs))


def said(outcome: Outcome | None) -> str | None:
    if outcome is None or outcome.status != "rejected":
        return outcome and outcome.status
    return f"rejected {'expired' if outcome.code == 'interrupt_expired' else 'unknown'}"


WANTED = frozenset(
    {
        "resumed", "superseded", "rejected", "again", "fenced", "moved", "ended", "ahead",
        "expired", "late", "rolled back", "expired running", "cancel seen",
    }
)  # fmt: skip
"""What has to have happened: schedules that never get there prove nothing."""

SCHEDULES, SCHEDULES_MAX = int(os.environ.get("LEDGER_SCHEDULES", "80")), 1000
FIRST_SEED = int(os.environ.get("LEDGER_SEED", "0"))


def test_the_functions_keep_the_rules(ledger_dsn: str) -> None:
    """So many schedules, and on until everything wanted has happened."""
    seen: Counter[str] = Counter()
    with asyncio.Runner() as runner:
        pool = runner.run(_pool(ledger_dsn))
        saver = runner.run(_saver(ledger_dsn, pool))
        try:
            for count in range(SCHEDULES_MAX):
                if count >= SCHEDULES and set(seen) >= WANTED:
                    break
                schedule = Schedule(runner, pool, saver, FIRST_SEED + count)
                try:
                    schedule.run()
                except Exception as error:
                    error.add_note(f"LEDGER_SEED={FIRST_SEED + count} LEDGER_SCHEDULES=1")
                    raise
                seen.update(schedule.seen)
        finally:
            runner.run(pool.close())
            runner.run(saver.conn.close())
    assert set(seen) >= WANTED, seen


async def _saver(dsn: str, commits: asyncpg.Pool) -> FencedSaver:
    pool = AsyncConnectionPool(
        dsn, min_size=1, max_size=1, open=False, kwargs={"autocommit": True, "prepare_threshold": 0}
    )
    await pool.open()
    return FencedSaver(pool, CommitPool(commits))


async def _pool(dsn: str) -> asyncpg.Pool:
    # what is lost in a crash of the server is not asked here; the one connection stays, for it is
    # the session by which the workers are known to live
    options = {"synchronous_commit": "off", "jit": "off"}
    return await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=1,
        max_queries=10**9,
        max_inactive_connection_lifetime=0,
        connection_class=LedgerConnection,
        server_settings=options,
    )
