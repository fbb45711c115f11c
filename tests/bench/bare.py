"""The second baseline: the same path through Kafka with nothing of what turnstream adds.

What one writes by hand with aiokafka, LangGraph, aiohttp and uvicorn: no ledger, lease, fence or
checkpoint, no schema, no cursor; a crash loses the turn. So ours / bare is the price of keeping a
turn. As in ours: one worker, one edge, records gathered for 5 ms, direct writes from the model's
stream to the log (no callbacks).

`python -m tests.bench.bare worker MODEL_URL KAFKA PREFIX`, `... bare edge PORT KAFKA PREFIX`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from typing import Any

import aiohttp
import msgspec
import uvicorn
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, MessagesState, StateGraph

from turnstream.streams.process.garbage import settle_memory

TICK_S = 0.005
PARTITIONS = 12
encode, decode = msgspec.json.encode, msgspec.json.decode


class Turn(msgspec.Struct):
    thread_id: str
    text: str


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta


class Chunk(msgspec.Struct):
    choices: list[Choice]


class Worker:
    """Takes turns from one topic, runs each as a graph, sends its tokens to another."""

    def __init__(self, model_url: str, kafka: str, prefix: str) -> None:
        self.url, self.topic = f"{model_url}/chat/completions", f"{prefix}bare-events"
        self.turns = AIOKafkaConsumer(
            f"{prefix}bare-turns", bootstrap_servers=kafka, group_id=f"{prefix}bare"
        )
        self.producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True)
        self.chunks = msgspec.json.Decoder(Chunk)
        self.waiting: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
        self.wake = asyncio.Event()
        graph = StateGraph(MessagesState)
        graph.add_node("model", self.answer)
        graph.add_edge(START, "model")
        graph.add_edge("model", END)
        self.graph = graph.compile()

    async def run(self) -> None:
        running: set[asyncio.Task[None]] = set()
        await self.producer.start()
        await self.turns.start()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self.http:
            pump = asyncio.create_task(self.pump())
            settle_memory()
            async for record in self.turns:
                task = asyncio.create_task(self.turn(record.key, record.partition, record.value))
                running.add(task)
                task.add_done_callback(running.discard)
            await pump

    async def turn(self, key: bytes, partition: int, value: bytes) -> None:
        """Keys lie in the same partition of both topics."""

        def emit(event: dict[str, Any]) -> None:
            self.waiting[partition].append((key, encode(event)))
            self.wake.set()

        messages = [{"role": "user", "content": decode(value, type=Turn).text}]
        async for _ in self.graph.astream(
            {"messages": messages}, {"configurable": {"emit": emit}}, stream_mode="updates"
        ):
            pass
        emit({"event": "completed"})

    async def answer(self, state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        emit = config["configurable"]["emit"]
        asked = [{"role": "user", "content": message.text} for message in state["messages"]]
        body = {"model": "scripted", "stream": True, "messages": asked}
        said: list[str] = []
        async with self.http.post(self.url, json=body) as response:
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                for choice in self.chunks.decode(line[6:]).choices:
                    if choice.delta.content:
                        said.append(choice.delta.content)
                        emit({"event": "token", "text": choice.delta.content})
        return {"messages": [AIMessage("".join(said))]}

    async def pump(self) -> None:
        while True:
            await self.wake.wait()
            self.wake.clear()
            batches, self.waiting = self.waiting, defaultdict(list)
            acks = []
            for partition, records in batches.items():
                batch = self.producer.create_batch()
                for key, value in records:
                    if batch.append(timestamp=None, key=key, value=value) is None:
                        acks.append(
                            await self.producer.send_batch(batch, self.topic, partition=partition)
                        )
                        batch = self.producer.create_batch()
                        batch.append(timestamp=None, key=key, value=value)
                acks.append(await self.producer.send_batch(batch, self.topic, partition=partition))
            await asyncio.gather(*acks)
            await asyncio.sleep(TICK_S)


class Edge:
    """Sends each record of a thread to the WebSockets at `/{thread_id}`, as it is."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self.events = AIOKafkaConsumer(f"{prefix}bare-events", bootstrap_servers=kafka)
        self.sockets: dict[bytes, list[Any]] = defaultdict(list)

    async def tail(self) -> None:
        while True:
            for records in (await self.events.getmany(timeout_ms=1000)).values():
                for record in records:
                    for send in self.sockets.get(record.key, ()):
                        await send({"type": "websocket.send", "text": record.value.decode()})

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ready"})
            return
        key = f"default/{scope['path'].removeprefix('/')}".encode()
        await receive()
        await send({"type": "websocket.accept"})
        self.sockets[key].append(send)
        while (await receive())["type"] != "websocket.disconnect":
            pass
        self.sockets[key].remove(send)

    async def run(self, port: int) -> None:
        await self.events.start()
        tail = asyncio.create_task(self.tail())
        server = uvicorn.Server(
            uvicorn.Config(
                self.app, interface="asgi3", host="127.0.0.1", port=port, lifespan="off",
                log_level="warning", ws="websockets-sansio", ws_per_message_deflate=False,
            )
        )  # fmt: skip
        settle_memory()
        await server.serve()
        tail.cancel()


if __name__ == "__main__":
    part, to, *log = sys.argv[1:]

    async def main() -> None:
        await (Worker(to, *log).run() if part == "worker" else Edge(*log).run(int(to)))

    uvloop.run(main())
