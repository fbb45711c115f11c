"""Plays one story on a stage and hands back everything that can be looked at afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from random import Random
from typing import TYPE_CHECKING, Any

import httpx
from langgraph_sdk.errors import APIConnectionError, InternalServerError
from websockets.exceptions import ConnectionClosedError, InvalidMessage, InvalidStatus

from tests.chaos.asked import GRAPHS, THEIR_CLIENTS, asked_of, ends_of, expected_of, graph_of
from tests.chaos.clients import Plain, Sdk
from tests.chaos.faults import FAULTS, NothingToStrikeError
from tests.chaos.played import Hit, Played, Sent
from tests.chaos.stage import TENANT
from tests.chaos.standstill import waits
from tests.chaos.story import SPARES_EDGES
from turnstream.schemas.errors import TurnstreamError
from turnstream.schemas.records.events import TurnInterrupted

if TYPE_CHECKING:
    from tests.chaos.stage import RealStage
    from tests.chaos.story import Blow, Story, Turn

CLIENTS_END_S = 10.0
CLIENTS_LEAVE_S = 30.0
"""For clients that are cancelled: longer than they wait for a socket to be closed in order."""
PARKS_AFTER = 3
"""Blows that may fall on one turn before it is parked as the one that kills its workers."""
FROZEN_S = 4.3
"""Longer than a lease (3 s) and its renewal."""
LOOK_EVERY_S = 0.03
_TURNS = "SELECT * FROM turns WHERE thread_key = ANY ($1) ORDER BY seq"
_names = itertools.count()


class Player:
    """One story on one stage."""

    def __init__(self, stage: RealStage, story: Story) -> None:
        self.stage, self.story = stage, story
        self.began = time.monotonic()
        count = max((turn.thread for turn in story.turns), default=0) + 1
        nonce = next(_names)
        self.threads = [f"{stage.name}-{nonce}-{i}" for i in range(count)]
        self.played = Played(story, self.threads)
        kinds = [FAULTS[blow.fault] for blow in story.blows if not blow.point]
        self.played.loses_rows = any(getattr(kind, "loses_rows", False) for kind in kinds)
        fails = any(getattr(kind, "may_fail", False) for kind in kinds)
        self._edges_spared = all(b.point or b.fault in SPARES_EDGES for b in story.blows)
        self._harmed_ends = {"failed"} if fails or len(story.blows) >= PARKS_AFTER else set()
        self._followers: list[asyncio.Task[None]] = []
        self._sdks: list[tuple[asyncio.Task[None], Sdk]] = []
        self._healing: list[tuple[Any, float]] = []

    async def play(self) -> Played:
        """Play it to its end; every fault is healed when this returns."""
        stage, played = self.stage, self.played
        stage.random = Random(f"blows of {self.story.seed}")
        stage.threads = self.threads
        began = time.monotonic()
        try:
            await self._gather_clients()
            self.began = time.monotonic()
            async with asyncio.timeout(self.stage.patience_s + 30.0), asyncio.TaskGroup() as going:
                for blow in self.story.blows:
                    if not blow.point:
                        going.create_task(self._strike(blow))
                    elif blow.action == "freeze":
                        going.create_task(self._thaw(blow))
                going.create_task(self._send_all(going))
            await self._until_over()
        except BaseExceptionGroup as group:
            played.troubles += [repr(error) for error in group.exceptions]
        except (AssertionError, TimeoutError) as error:
            played.troubles.append(str(error) or repr(error))
        finally:
            await self._heal()
            await self._end_clients()
        await self._look()
        stage.clear()
        played.took_s = time.monotonic() - began
        return played

    # -- clients ---------------------------------------------------------------------------------

    async def _gather_clients(self) -> None:
        stage = self.stage
        for index, thread in enumerate(self.threads):
            mine = [turn for turn in self.story.turns if turn.thread == index]
            if not mine:
                continue
            await stage.make_thread(thread, graph_of(mine[0]))
            kinds = ("websocket", "sse") if index % 2 else ("websocket",)
            for transport in kinds:
                plain = Plain(stage.url, thread, transport)
                self.played.plain[thread].append(plain)
                self._followers.append(asyncio.create_task(plain.follow()))
        waiting = [p.subscribed.wait() for ps in self.played.plain.values() for p in ps]
        async with asyncio.timeout(30.0):
            await asyncio.gather(*waiting)

    async def _end_clients(self) -> None:
        """Give clients the time to see the ends, then let them go."""
        deadline = time.monotonic() + CLIENTS_END_S
        while time.monotonic() < deadline and not self._all_seen():
            await asyncio.sleep(LOOK_EVERY_S)
        for task in self._followers:
            if task.done() and not task.cancelled() and task.exception() is not None:
                self._failed(task)
            task.cancel()
        if not self._followers:
            return
        _, left = await asyncio.wait(self._followers, timeout=CLIENTS_LEAVE_S)
        for task in left:
            where = " > ".join(waits(task.get_coro()))
            self.played.troubles.append(f"a client does not let itself be cancelled: {where}")

    def _failed(self, task: asyncio.Task[None]) -> None:
        """Note a client's failure; the SDK asks but once for a state, and an edge may be gone."""
        error = task.exception()
        sdk = next((s for t, s in self._sdks if t is task), None)
        if sdk is not None and not self._edges_spared and _is_transport(error):
            sdk.gave_up = repr(error)
        else:
            self.played.troubles.append(f"a client failed: {error!r}")

    def _all_seen(self) -> bool:
        played = self.played
        done = [task.done() for task in self._followers[sum(map(len, played.plain.values())) :]]
        return all(done) and all(
            client.turns[str(row["turn_id"])].ends
            for row in played.rows
            for client in played.plain[row["thread_key"].partition("/")[2]]
        )

    # -- turns -----------------------------------------------------------------------------------

    async def _send_all(self, going: asyncio.TaskGroup) -> None:
        for index, turn in enumerate(self.story.turns):
            await asyncio.sleep(turn.wait_s)
            thread = self.threads[turn.thread]
            for blow in self.story.blows:
                if blow.point and blow.turn == index:
                    self.stage.arm(blow.point, thread, blow.action, blow.count)
            turn_id = await self._start(turn, index, thread)
            if turn.cancel_s is not None and turn.cancel_s >= 0:
                going.create_task(self._cancel(turn.cancel_s, thread, turn_id))
            if turn.kind in ("approval", "questions"):
                going.create_task(self._answer(turn, thread, turn_id))

    async def _start(self, turn: Turn, index: int, thread: str) -> str:
        turn_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{thread}/{index}"))
        if turn.by in ("websocket", "sse"):
            return await self._start_by_sdk(turn, thread)
        if turn.by.startswith("watch-"):
            await self._watch_by_sdk(turn, thread, turn_id)
        if turn.cancel_s is not None and turn.cancel_s < 0:
            await self.stage.send(thread, {"type": "CancelTurn", "turn_id": turn_id})
        ends = {"completed"} if turn.kind not in ("approval", "questions") else {"interrupted"}
        fields: dict[str, Any] = {"text": asked_of(turn), "on_busy": turn.on_busy}
        if turn.expires_s is not None:
            fields["expires_at"] = int((time.time() + turn.expires_s) * 1_000_000)
        await self._send(
            turn_id, thread, turn.kind, ends | ends_of(turn), self._expected_of(turn), **fields
        )
        return turn_id

    async def _send(
        self, turn_id: str, thread: str, kind: str, ends: set[str], expected: str, **fields: Any
    ) -> None:
        graph = GRAPHS.get(kind, kind)
        sent = Sent(
            turn_id=turn_id,
            thread=thread,
            kind=kind,
            may_end=frozenset(ends | self._harmed_ends | self._ends_by_others(thread)),
            at=time.time(),
            text=expected,
        )
        command = {"turn_id": turn_id, "graph": graph, **fields}
        sent.place = await self.stage.send(thread, command)
        self.played.sent.setdefault(turn_id, sent)

    def _ends_by_others(self, thread: str) -> set[str]:
        """How a turn may end because of another on its thread."""
        index = self.threads.index(thread)
        policies = {turn.on_busy for turn in self.story.turns if turn.thread == index}
        return {"cancelled"} if policies & {"interrupt", "rollback"} else set()

    def _expected_of(self, turn: Turn) -> str:
        """Return what a turn's last message has to be, where its client of the model is ours."""
        halves = any(blow.fault == "hostile-answers" for blow in self.story.blows)
        return "" if halves and turn.kind in THEIR_CLIENTS else expected_of(turn)

    async def _start_by_sdk(self, turn: Turn, thread: str) -> str:
        sdk = Sdk(self.stage.url, thread, graph_of(turn), turn.by)
        self.played.sdks.append(sdk)
        said = {"messages": [{"role": "user", "content": asked_of(turn)}]}
        task = asyncio.create_task(sdk.follow({"input": said}))
        self._followers.append(task)
        self._sdks.append((task, sdk))
        await self.stage.until(lambda: sdk.run_id or task.done(), "the SDK's start", 30.0)
        if sdk.run_id:
            self.played.sent[sdk.run_id] = Sent(
                turn_id=sdk.run_id,
                thread=thread,
                kind=turn.kind,
                may_end=frozenset({"completed"} | self._harmed_ends),
                at=time.time(),
                text=self._expected_of(turn),
            )
        return sdk.run_id

    async def _watch_by_sdk(self, turn: Turn, thread: str, turn_id: str) -> None:
        sdk = Sdk(self.stage.url, thread, graph_of(turn), turn.by.removeprefix("watch-"))
        sdk.run_id = turn_id
        self.played.sdks.append(sdk)
        task = asyncio.create_task(sdk.follow())
        self._followers.append(task)
        self._sdks.append((task, sdk))
        await self.stage.until(
            lambda: sdk.subscribed.is_set() or task.done(), "the SDK's subscription", 30.0
        )
        if sdk.unwatched and self._edges_spared:
            self.played.troubles.append(f"the SDK gave up a run's stream: {sdk.unwatched}")

    async def _cancel(self, after_s: float, thread: str, turn_id: str) -> None:
        await asyncio.sleep(after_s)
        await self.stage.send(thread, {"type": "CancelTurn", "turn_id": turn_id})

    async def _answer(self, turn: Turn, thread: str, turn_id: str) -> None:
        """Answer a turn's questions when it has ended with them, in the story's way."""

        def asked() -> TurnInterrupted | bool | None:
            view = self.stage.log.threads[thread].fold.turns.get(turn_id)
            return view.terminal if view is not None and view.done else None  # type: ignore[return-value]

        end = await self.stage.until(asked, f"the questions of {turn_id}", self.stage.patience_s)
        if not isinstance(end, TurnInterrupted):
            return
        answers = {question.id: "yes" for question in end.interrupts}
        resume, other = (
            str(uuid.uuid5(uuid.NAMESPACE_OID, f"{turn_id}/{name}")) for name in ("resume", "other")
        )
        # a turn that stood behind this one has superseded the question by now
        ends = {"completed", "rejected"}
        if turn.answer == "superseded":
            await self._send(resume, thread, "say", {"completed"}, "", text='text="another"')
            return
        if turn.answer == "foreign":
            foreign = {uuid.uuid5(uuid.NAMESPACE_OID, turn_id).hex: "no"}
            await self._resume(other, thread, turn, {"rejected"}, foreign)
        await self._resume(resume, thread, turn, ends, answers)
        if turn.answer == "twice":
            await self._resume(resume, thread, turn, ends, answers)
        if turn.answer == "stale":
            await self._resume(other, thread, turn, {"rejected"}, answers)

    async def _resume(
        self, turn_id: str, thread: str, turn: Turn, ends: set[str], answers: dict[str, str]
    ) -> None:
        await self._send(turn_id, thread, turn.kind, ends, "", type="ResumeTurn", answers=answers)

    # -- blows -----------------------------------------------------------------------------------

    async def _strike(self, blow: Blow) -> None:
        await asyncio.sleep(max(0.0, blow.at_s - (time.monotonic() - self.began)))
        fault = FAULTS[blow.fault]()
        began = time.time()
        self._healing.append((fault, 0.0))
        try:
            await fault.strike(self.stage)  # type: ignore[arg-type]
        except NothingToStrikeError:
            return
        self.played.hits.append(
            Hit(fault=blow.fault, at=began, worker=getattr(fault, "struck", ""))
        )
        if fault.lasts_s:
            await asyncio.sleep(fault.lasts_s)
            await fault.heal(self.stage)  # type: ignore[arg-type]

    async def _thaw(self, blow: Blow) -> None:
        """Let a worker that is frozen at a point go on, longer after than its lease lasts."""
        thread = self.threads[self.story.turns[blow.turn].thread]
        if not await self.stage.hit(blow.point, thread, 20.0):
            return
        await asyncio.sleep(FROZEN_S)
        for process in self.stage.workers:
            if process.stopped:
                process.thaw()

    async def _heal(self) -> None:
        """Undo everything that was done; note which armed points were reached."""
        for fault, _ in self._healing:
            try:
                await fault.heal(self.stage)
            except (AssertionError, OSError, TurnstreamError) as error:
                self.played.troubles.append(f"{fault.name} was not healed: {error!r}")
        for blow in self.story.blows:
            if not blow.point:
                continue
            thread = self.threads[self.story.turns[blow.turn].thread]
            if found := self.stage.hit_of(blow.point, thread):
                worker, at = found
                hit = Hit(fault=blow.fault, at=at, worker=worker, thread=thread)
                self.played.hits.append(hit)
        for process in self.stage.workers:
            if process.stopped:
                process.thaw()

    # -- the end ---------------------------------------------------------------------------------

    async def _until_over(self) -> None:
        """Wait until the ledger has closed all that was sent, and the log has said so."""
        deadline = time.monotonic() + self.stage.patience_s
        while not await self._over():
            if time.monotonic() > deadline:
                await self._tell_what_is_open()
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _over(self) -> bool:
        played, log = self.played, self.stage.log
        keys = [f"{TENANT}/{thread}" for thread in self.threads]
        played.rows = await self.stage.ask(_TURNS, keys)
        if any(row["closed_at"] is None for row in played.rows):
            return False
        admitted = {str(row["turn_id"]) for row in played.rows}
        played.letters = {(letter.partition, letter.offset) for letter in log.letters}
        if any(
            sent.turn_id not in admitted and sent.place not in played.letters
            for sent in played.sent.values()
        ):
            return False
        for row in played.rows:
            thread, turn = row["thread_key"].partition("/")[2], str(row["turn_id"])
            view = log.threads[thread].fold.turns.get(turn)
            if view is None or not view.done or not log.results[turn]:
                return False
        return True

    async def _tell_what_is_open(self) -> None:
        for row in self.played.rows:
            if row["closed_at"] is None:
                outcome = "has an outcome" if row["outcome"] else "has no outcome"
                self.played.troubles.append(
                    f"turn {row['turn_id']} on {row['thread_key']} was not closed within"
                    f" {self.stage.patience_s:g} s ({outcome}, {row['attempts']} attempts)"
                )
        admitted = {str(row["turn_id"]) for row in self.played.rows}
        for sent in self.played.sent.values():
            if sent.turn_id not in admitted and sent.place not in self.played.letters:
                self.played.troubles.append(f"{sent} is neither admitted nor in dead letters")
        log = self.stage.log
        for row in self.played.rows:
            thread, turn = row["thread_key"].partition("/")[2], str(row["turn_id"])
            view = log.threads[thread].fold.turns.get(turn)
            if row["closed_at"] and (view is None or not view.done):
                self.played.troubles.append(f"turn {turn} is closed and its end is not in the log")
            if row["closed_at"] and not log.results[turn]:
                self.played.troubles.append(f"turn {turn} is closed and has no result")

    async def _look(self) -> None:
        """Collect what Postgres and the edge hold of this story."""
        stage, played = self.stage, self.played
        keys = [f"{TENANT}/{thread}" for thread in self.threads]
        played.logs = {thread: stage.log.threads[thread] for thread in self.threads}
        played.results = {t: stage.log.results[t] for t in map(_turn_id, played.rows)}
        played.effects = await stage.ask(
            "SELECT * FROM chaos_effects WHERE thread_key = ANY ($1)", keys
        )
        played.stale_writes = await stage.ask(
            "SELECT * FROM chaos_stale_writes WHERE thread_key = ANY ($1)", keys
        )
        for thread in played.plain:
            with contextlib.suppress(AssertionError):
                played.states[thread] = await stage.until(
                    lambda thread=thread: stage.state_of(thread), "the state", 10.0
                )
        stage.log.forget(self.threads, [_turn_id(row) for row in played.rows])


def _is_transport(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_transport(one) for one in error.exceptions)
    if isinstance(error, httpx.HTTPStatusError):  # what opens an SSE stream of the SDK raises it
        return error.response.status_code == httpx.codes.SERVICE_UNAVAILABLE
    if isinstance(error, InvalidStatus):
        return error.response.status_code == httpx.codes.SERVICE_UNAVAILABLE
    # a socket of the SDK's that was cut while it was being opened
    opening = (InvalidMessage, ConnectionClosedError)
    kinds = (httpx.TransportError, APIConnectionError, InternalServerError, OSError, *opening)
    return isinstance(error, kinds)


def _turn_id(row: Any) -> str:
    return str(row["turn_id"])


async def play(stage: RealStage, story: Story) -> Played:
    """Play a story to its end."""
    return await Player(stage, story).play()
