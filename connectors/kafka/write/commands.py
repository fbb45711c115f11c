"""Commands to the `turns` topic, acked by every replica. Writes to Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from turnstream.connectors.kafka.wire.clients import REQUEST_TIMEOUT_MS, client_options, open_client
from turnstream.schemas.errors import KafkaUnavailableError, RecordTooLargeError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import msgspec

    from turnstream.schemas.records.commands import Command

BATCH_BYTES_MAX = 1 << 20


class Encoder(Protocol):
    """Encodes records."""

    def encode(self, record: msgspec.Struct) -> bytes:
        """Return the record with its framing."""
        ...


class KafkaCommands:
    """Append commands to one topic; an async context manager over one producer."""

    def __init__(self, bootstrap: str, topic: str, encoder: Encoder, **client: object) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._encoder = encoder
        self._producer = AIOKafkaProducer(
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            max_batch_size=BATCH_BYTES_MAX,
            max_request_size=2 * BATCH_BYTES_MAX,
            **client_options(bootstrap, client),
        )

    async def __aenter__(self) -> Self:
        await open_client(self._producer.start, self._producer.stop, self._bootstrap)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._producer.stop()

    def encode(self, command: Command) -> bytes:
        """Return the command as a record's value; raises `UndecodableError` (`invalid_text`)."""
        return self._encoder.encode(command)

    async def append(self, key: str, kind: type[Command], value: bytes) -> None:
        """Return once every replica has a command that `encode` made.

        Raises `KafkaUnavailableError`: the command may be in the log, so append it again with the
        same turn id. Raises `RecordTooLargeError`.
        """
        headers = [("type", kind.__name__.encode())]
        try:
            await self._producer.send_and_wait(
                self._topic, value, key=key.encode(), headers=headers
            )
        except MessageSizeTooLargeError as error:
            raise RecordTooLargeError("the command is larger than its topic allows") from error
        except KafkaError as error:
            raise KafkaUnavailableError(f"Kafka took no command: {error!r}") from error
