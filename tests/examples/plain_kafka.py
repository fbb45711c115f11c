"""Start a turn from a backend that knows nothing of turnstream: one line of JSON to Kafka.

    python plain_kafka.py 127.0.0.1:9092 "What is 6 * 7?"

Any Kafka client in any language can do this. The result is Avro (single-object encoding, schema
`schemas/records/avro/TurnResult.avsc`); it is found by the correlation id. A line that turnstream
cannot take has a result too, with the code `dead_letter`: if the line is requeued, the turn's own
result follows and replaces it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from turnstream.connectors.avro import Codec
from turnstream.schemas.results import TurnResult


async def ask(
    bootstrap: str, text: str, *, prefix: str = "", thread_id: str = "demo"
) -> TurnResult:
    """Publish the line, and read results until ours is there."""
    correlation_id = str(uuid.uuid4())
    line: dict[str, Any] = {"thread_id": thread_id, "text": text, "correlation_id": correlation_id}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    results = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await results.start()
    await producer.start()
    try:
        topic = f"{prefix}turn-results.default"
        results.subscribe([topic])
        await producer.send_and_wait(
            f"{prefix}turns.default", json.dumps(line).encode(), key=f"default/{thread_id}".encode()
        )
        codec = Codec()
        async for record in results:
            result = codec.decode(record.value)
            if isinstance(result, TurnResult) and result.correlation_id == correlation_id:
                return result
        raise RuntimeError("the consumer was stopped")
    finally:
        await producer.stop()
        await results.stop()


if __name__ == "__main__":
    found = asyncio.run(ask(sys.argv[1], sys.argv[2]))
    sys.stdout.write(f"{found.status}: {found.text or found.message}\n")
