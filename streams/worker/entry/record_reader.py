"""Reads records of input topics: each is an admission, or is refused with a reason."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import structlog

from turnstream.connectors.kafka.read.inbox import UnreadableRecord
from turnstream.schemas.errors import (
    InvalidRequestError,
    TurnstreamError,
    UnavailableError,
    UndecodableError,
    UnknownSchemaError,
)
from turnstream.schemas.unexpected import note
from turnstream.streams.worker.admission import admission_for, command_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from turnstream.connectors.postgres.ledger.rows import Admission
    from turnstream.schemas.records.commands import Command
    from turnstream.streams.worker.admission import Record, Rules

log = structlog.get_logger(__name__)

LEARN_EVERY_S = 5.0


class Refused(NamedTuple):
    """A record that is not taken, with the code and the message of its dead letter."""

    record: Record
    code: str
    message: str


class Read(NamedTuple):
    """What a batch asks for. `decoded`: the commands by the bytes that the ledger keeps of them."""

    admissions: list[Admission]
    refused: list[Refused]
    decoded: dict[bytes, Command]


class RecordReader:
    """Reads batches of one topic each.

    `tenant_of` gives an input topic's tenant, None where the body names it; `topic_ids` the ids
    from which turn ids of records without one are made. `relearn` asks the schema registry, if
    there is one, for schemas that are new.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        tenant_of: Callable[[str], str | None],
        topic_ids: Mapping[str, str],
        relearn: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.tenant_of = tenant_of
        self.topic_ids = topic_ids
        self._rules = rules
        self._relearn = relearn
        self._learned_at = -LEARN_EVERY_S

    async def read(self, records: Sequence[Record]) -> Read:
        """Return what the records ask for, and those that are refused; never raises."""
        read = self._read(records)
        if any(one.code == UnknownSchemaError.code for one in read.refused):
            # a newer writer may have registered its schema after this worker's start
            await self._learn_schemas()
            return self._read(records)
        return read

    def _read(self, records: Sequence[Record]) -> Read:
        admissions: list[Admission] = []
        refused: list[Refused] = []
        decoded: dict[bytes, Command] = {}
        for record in records:
            if isinstance(record, UnreadableRecord):
                refused.append(Refused(record, record.code, record.message))
                continue
            try:
                tenant, topic_id = self.tenant_of(record.topic), self.topic_ids[record.topic]
                command = command_in(record, tenant, topic_id, self._rules)
                admission = admission_for(command, record, self._rules)
            except (UndecodableError, InvalidRequestError) as error:
                refused.append(Refused(record, error.code, str(error)))
            except Exception as error:  # noqa: BLE001  one record must not stop the others
                refused.append(Refused(record, *unprocessable("intake_read", error, record)))
            else:
                admissions.append(admission)
                decoded[admission.body] = command
        return Read(admissions, refused, decoded)

    async def _learn_schemas(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._relearn is None or now - self._learned_at < LEARN_EVERY_S:
            return
        self._learned_at = now
        try:
            await self._relearn()
        except UnavailableError as error:
            log.warning("schemas_not_learned", error=str(error))
        except Exception as error:  # noqa: BLE001  a registry may answer anything
            note("schemas_learn", error)


def unprocessable(place: str, error: Exception, record: Record) -> tuple[str, str]:
    """Note an error that no rule foresaw; returns the code and the message of its dead letter.

    The message holds the text of the ledger's and the rules' own errors, of others class and id.
    """
    error_id = note(
        place, error, topic=record.topic, partition=record.partition, offset=record.offset
    )
    text = str(error) if isinstance(error, TurnstreamError) else type(error).__name__
    return "unprocessable", f"{text} (error {error_id})"
