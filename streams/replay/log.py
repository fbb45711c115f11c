"""Replay `view`, the reading half: find a thread's or a turn's records in the log and fold them.

Reads `turn-events` up to the end that stands when it begins, and one record of an input topic for
each turn's input. Writes nothing and needs no Postgres.
"""

from __future__ import annotations

import dataclasses
import hashlib
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from turnstream.schemas.errors import NotFoundError, UndecodableError
from turnstream.schemas.records.command_json import command_of_json
from turnstream.schemas.records.commands import Command
from turnstream.streams.replay.view import Input, Replay

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    import msgspec

    from turnstream.connectors.kafka.read.scan import RawRecord, Span
    from turnstream.streams.replay.view import ThreadReplay

    OnProgress = Callable[[int, int], None]


class Log(Protocol):
    """Where replay reads; `connectors.kafka.scan.LogScan` is one."""

    async def spans(self, topic: str) -> list[Span]:
        """Return what each partition of the topic holds now."""
        ...

    def read(self, topic: str, spans: Iterable[Span]) -> AsyncGenerator[list[RawRecord], None]:
        """Yield the records of the spans, each partition's in offset order."""
        ...

    async def record(self, topic: str, partition: int, offset: int) -> RawRecord | None:
        """Return one record, or None where it is gone."""
        ...


class Decoder(Protocol):
    """What turns stored bytes into records; `connectors.avro.Codec` is one."""

    def decode(self, data: bytes) -> msgspec.Struct:
        """Return the record; raises `UndecodableError`."""
        ...


def no_progress(_done: int, _total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class Replayer:
    """Find and fold. `on_progress` hears how many records are read, and of how many.

    `partition_of`: the partitioner's answer for a key and a number of partitions.
    """

    log: Log
    decoder: Decoder
    topic: str
    partition_of: Callable[[bytes, int], int]
    on_progress: OnProgress = no_progress

    async def thread(self, key: str) -> ThreadReplay:
        """Fold the thread `key` (`tenant/thread_id`); raises `NotFoundError` (`unknown_thread`).

        Looks in the partition that the key has now, and in all others where that holds nothing of
        it: a thread keeps its partition when a topic grows.
        """
        raw_key = key.encode()
        spans = await self.log.spans(self.topic)
        likely = spans[self.partition_of(raw_key, len(spans))]
        begin = await self._find([likely], lambda record: record.key == raw_key)
        if begin is None:
            others = [span for span in spans if span is not likely]
            begin = await self._find(others, lambda record: record.key == raw_key)
        if begin is None:
            raise NotFoundError(f"the log holds nothing of thread {key}", code="unknown_thread")
        return await self._fold(begin, spans[begin.partition])

    async def turn(self, turn_id: str, tenant: str = "") -> ThreadReplay:
        """Fold this turn alone, wherever it is; raises `NotFoundError` (`unknown_turn`).

        Scans all partitions for its first record; the bytes of the id are looked for before
        anything is decoded.
        """
        needle, owner = turn_id.encode(), f"{tenant}/".encode() if tenant else b""

        def is_it(record: RawRecord) -> bool:
            if needle not in record.value or not record.key.startswith(owner):
                return False
            try:
                return getattr(self.decoder.decode(record.value), "turn_id", "") == turn_id
            except UndecodableError:
                return False

        spans = await self.log.spans(self.topic)
        begin = await self._find(spans, is_it)
        if begin is None:
            raise NotFoundError(f"the log holds nothing of turn {turn_id}", code="unknown_turn")
        return await self._fold(begin, spans[begin.partition], only=turn_id)

    async def _find(
        self, spans: Sequence[Span], is_it: Callable[[RawRecord], bool]
    ) -> RawRecord | None:
        done, total = 0, sum(span.end - span.first for span in spans)
        async with aclosing(self.log.read(self.topic, spans)) as batches:
            async for batch in batches:
                for record in batch:
                    if is_it(record):
                        return record
                done += len(batch)
                self.on_progress(done, total)
        return None

    async def _fold(self, begin: RawRecord, span: Span, only: str = "") -> ThreadReplay:
        replay = Replay(begin.key.decode(), span.partition, span.first, span.end)
        rest = dataclasses.replace(span, first=begin.offset)
        async with aclosing(self.log.read(self.topic, [rest])) as batches:
            async for batch in batches:
                for record in batch:
                    if record.key == begin.key:
                        self._take(replay, record, only)
                if batch:
                    self.on_progress(batch[-1].offset + 1 - rest.first, rest.end - rest.first)
        for turn in replay.result.turns.values():
            if turn.source is not None:
                turn.input = await read_input(self.log, self.decoder, *turn.source)
        return replay.result

    def _take(self, replay: Replay, raw: RawRecord, only: str) -> None:
        try:
            record = self.decoder.decode(raw.value)
        except UndecodableError as error:
            replay.undecodable(raw.offset, str(error))
            return
        if not only or getattr(record, "turn_id", "") == only:
            replay.apply(record, raw.offset)


async def read_input(log: Log, decoder: Decoder, topic: str, partition: int, offset: int) -> Input:
    """Return what a turn was asked, from the input record; `found` is False where that is gone."""
    raw = await log.record(topic, partition, offset)
    if raw is None:
        return Input(topic, partition, offset, found=False)
    command = _command(decoder, raw.value)
    return Input(
        topic,
        partition,
        offset,
        found=True,
        kind=type(command).__name__ if command is not None else "",
        text=getattr(command, "text", ""),
        payload=getattr(command, "input", "") or getattr(command, "answers", ""),
        correlation_id=command.correlation_id if command is not None else "",
        sha256=hashlib.sha256(raw.value).hexdigest(),
    )


def _command(decoder: Decoder, value: bytes) -> Command | None:
    try:
        record = command_of_json(value) if value[:1] == b"{" else decoder.decode(value)
    except UndecodableError:
        return None
    return record if isinstance(record, Command) else None
