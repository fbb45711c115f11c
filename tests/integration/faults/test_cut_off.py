"""One worker's way to Kafka is cut: its threads go to a peer that hears Kafka, or stay with it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaConnectionError

from turnstream.schemas.records.events import AttemptStarted, TokensEmitted, TurnCompleted

if TYPE_CHECKING:
    from collections.abc import Iterator


def speaks(scene: Any, thread: str, turn: str) -> bool:
    view = scene.view(thread, turn)
    return view is not None and any(isinstance(item, TokensEmitted) for item in view.items)


@contextlib.contextmanager
def cut_off(worker: Any) -> Iterator[None]:
    """Let this worker's producer reach nobody: its requests hang, then fail."""
    producer = worker._pump._producer.get()
    client, healed, unanswered = producer._client, asyncio.Event(), []
    send, open_wire = client.send, producer._open_wire
    wires = list(producer._wires.values())

    async def hang(*_: Any, **__: Any) -> Any:
        await healed.wait()
        raise KafkaConnectionError("cut")

    def swallow(_api: int, _version: int, _body: bytes, told: Any) -> None:
        unanswered.append(told)

    client.send = producer._open_wire = hang
    for wire in wires:
        wire.send = swallow
    try:
        yield
    finally:
        client.send, producer._open_wire = send, open_wire
        for wire in wires:
            del wire.send
        healed.set()
        for told in unanswered:
            told(b"", 0, KafkaConnectionError("cut"))


async def test_it_leaves_its_threads_to_a_peer_that_hears_kafka(scene: Any) -> None:
    async with scene.worker(ack_stall_s=1.0) as cut:
        turns = {f"t{i}": await scene.start(f"t{i}", "tokens=120 rate=30") for i in range(6)}
        await scene.until(lambda: all(speaks(scene, *turn) for turn in turns.items()))
        async with scene.worker(ack_stall_s=1.0) as peer:
            with cut_off(cut):
                await scene.until(lambda: len(peer.roster.running) == len(turns))
                # the peer may have a thread before the one who left it has put it away
                await scene.until(lambda: not cut.roster.running)
                assert cut.not_ready() == "Kafka does not acknowledge"
                for thread, turn in turns.items():
                    view = await scene.done(thread, turn)
                    assert isinstance(view.terminal, TurnCompleted)
                    assert (view.attempts, view.gaps) == (2, 0)
            # what it had on its way lands now, void; and it takes turns again
            await scene.until(lambda: not cut.not_ready())
            peer.roster.close()
            late = await scene.start("late", "tokens=3")
            assert isinstance((await scene.done("late", late)).terminal, TurnCompleted)
    starts = [r for _, _, r in scene.log if isinstance(r, AttemptStarted)]
    assert {r.turn_id for r in starts if r.worker == starts[0].worker} >= {late}
    await scene.until(lambda: {r.turn_id for r in scene.results} >= set(turns.values()))
    results = [r for r in scene.results if r.turn_id in turns.values()]
    assert {r.attempts for r in results} == {1}, "a release does not count as an attempt"


async def test_it_keeps_its_turns_where_no_peer_hears_kafka(scene: Any) -> None:
    async with scene.worker(ack_stall_s=0.5) as cut:
        turn = await scene.start("t1", "tokens=60 rate=30")
        await scene.until(lambda: speaks(scene, "t1", turn))
        with cut_off(cut):
            await scene.until(lambda: cut._pump.stalled_s() > 4)
            assert cut.not_ready() == "Kafka does not acknowledge"
            assert len(cut.roster.running) == 1
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)
        assert (view.attempts, view.gaps) == (1, 0)


async def test_it_keeps_its_turns_where_a_peer_hears_kafka_again_a_little_sooner(
    scene: Any,
) -> None:
    async with scene.worker(ack_stall_s=5.0) as late:
        turn = await scene.start("t1", "tokens=300 rate=30")
        await scene.until(lambda: speaks(scene, "t1", turn))
        async with scene.worker(ack_stall_s=5.0) as soon:
            late.roster.close()
            with cut_off(late):
                other = await scene.start("t2", "tokens=300 rate=30")
                await scene.until(lambda: speaks(scene, "t2", other))
                with cut_off(soon):
                    await scene.until(lambda: soon._pump.stalled_s() > 5)
                # the outage is over for one: its renewals say so while the other still waits
                await scene.until(lambda: soon._pump.silent_s() < 1)
                await asyncio.sleep(2.5)  # two looks, had it been told
                assert late.not_ready() == "Kafka does not acknowledge"
                assert len(late.roster.running) == 1
            for thread, name in (("t1", turn), ("t2", other)):
                view = await scene.done(thread, name)
                assert isinstance(view.terminal, TurnCompleted)
                assert (view.attempts, view.gaps) == (1, 0)
