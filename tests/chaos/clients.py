"""Clients of a story, and what each of them ends up showing, turn by turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
from langgraph_sdk import get_client

from tests.integration.sdk_projections import open_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONNECT_PAUSE_S = 0.05
COME_BACK = (1012, 1006, 4503, None)
"""Closes after which a client comes back with its cursor: the edge stops, is cut off, cannot read
the log or the ledger now, or said nothing. All others are problems."""


@dataclass(slots=True)
class ShownTurn:
    """What a client shows of one turn; `token_times` are of when tokens came (since 1970)."""

    messages: dict[str, str] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    saying: dict[str, str] = field(default_factory=dict)
    ends: list[dict[str, Any]] = field(default_factory=list)
    rewinds: int = 0
    token_times: list[float] = field(default_factory=list)


class Plain:
    """Follows a thread by plain events, on a raw WebSocket or as SSE, with its cursor."""

    def __init__(self, url: str, thread: str, transport: str) -> None:
        self.name = f"plain-{transport}"
        self.turns: dict[str, ShownTurn] = defaultdict(ShownTurn)
        self.problems: list[str] = []
        self.drops = 0
        self.resets = 0
        self.reopened: list[str] = []
        """Turns that were over and run again, as may be where the database was put back; and what
        came at which cursor."""
        self.subscribed = asyncio.Event()
        self._url, self._thread, self._transport = url, thread, transport
        self._cursor: int | None = None

    async def follow(self) -> None:
        """Read until cancelled; come back with the cursor whenever the edge goes away."""
        listen = self._socket if self._transport == "websocket" else self._sse
        async with aiohttp.ClientSession() as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
                    async for event in listen(http):
                        self._take(event)
                self.drops += 1
                await asyncio.sleep(CONNECT_PAUSE_S)

    async def _socket(self, http: aiohttp.ClientSession) -> AsyncIterator[dict[str, Any]]:
        async with http.ws_connect(f"{self._url}/ws", max_msg_size=0, heartbeat=2.0) as socket:
            ask = {"type": "subscribe", "thread_id": self._thread}
            if self._cursor is not None:
                ask["since"] = self._cursor
            await socket.send_json(ask)
            async for frame in socket:
                if frame.type is not aiohttp.WSMsgType.TEXT:
                    return  # the peer does not answer pings
                event = frame.json()
                if event["type"] == "ok":
                    continue
                if event["type"] == "error":
                    if not event["retryable"]:
                        self.problems.append(f"error {event}")
                    return
                yield event
        if socket.close_code not in COME_BACK:
            self.problems.append(f"closed with {socket.close_code}")

    async def _sse(self, http: aiohttp.ClientSession) -> AsyncIterator[dict[str, Any]]:
        headers = {} if self._cursor is None else {"Last-Event-ID": str(self._cursor)}
        wait = aiohttp.ClientTimeout(total=None, sock_read=20.0)
        address = f"{self._url}/chat/stream?thread_id={self._thread}"
        async with http.get(address, headers=headers, timeout=wait) as response:
            if response.status != 200:
                if response.status < 500 and response.status != 429:
                    self.problems.append(f"{response.status} {await response.text()}")
                return
            fields: dict[str, str] = {}
            async for raw in response.content:
                line = raw.decode().rstrip("\n")
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif not line and "data" in fields:
                    yield {
                        "type": fields["event"],
                        "cursor": int(fields.get("id", -1)),
                        **json.loads(fields["data"]),
                    }
                    fields = {}

    def _take(self, event: dict[str, Any]) -> None:
        cursor = event.get("cursor", -1)
        if self._cursor is not None and cursor <= self._cursor:
            self.problems.append(f"cursor {cursor} came after {self._cursor}")
        self._cursor = cursor
        self.subscribed.set()
        if event["type"] == "opened":
            return
        if event["type"] == "reset":
            self.resets += 1
            self.turns.clear()
            return
        if event["type"] == "resolved":  # comes before its run begins, also when that runs again
            return
        turn = self.turns[event["run_id"]]
        # a turn that ends unclaimed in a later timeline has nothing but its end
        if turn.ends and event["type"] in ("rewind", "started", "end"):
            end = turn.ends[-1]
            self.reopened.append(
                f"{event['run_id']} ({end['status']} at {end['cursor']}, then {event['type']} at"
                f" {cursor})"
            )
            turn.ends.clear()
        if turn.ends:
            self.problems.append(f"{event['type']} came after the end of {event['run_id']}")
        match event["type"]:
            case "token":
                turn.token_times.append(time.time())
                before = turn.saying.get(event["message_id"], "")
                turn.saying[event["message_id"]] = before + event["text"]
            case "message" if event["role"] == "assistant":
                self._finished(turn, event["message_id"], event["text"])
            case "tool" if event["state"] == "finished":
                turn.tools[event["tool_call_id"]] = event["output"]
            case "rewind":
                turn.rewinds += 1
                for message_id in event["message_ids"]:
                    turn.saying.pop(message_id, None)
                    turn.messages.pop(message_id, None)
                for call in event["tool_call_ids"]:
                    turn.tools.pop(call, None)
            case "end":
                turn.ends.append(event)

    def _finished(self, turn: ShownTurn, message_id: str, text: str) -> None:
        said = turn.saying.pop(message_id, "")
        if said != text:
            self.problems.append(f"{message_id}: the tokens {said!r} are not the message {text!r}")
        if message_id in turn.messages:
            self.problems.append(f"{message_id} is shown twice")
        turn.messages[message_id] = text


class Sdk:
    """The stock SDK's thread stream of one turn; the one that is given an input starts it.

    `messages` holds every text that was finished under an id: the SDK cannot take back a message
    that it has called finished, so after a rewind there may be another.
    """

    def __init__(self, url: str, thread: str, graph: str, transport: str) -> None:
        self.name = f"sdk-{transport}"
        self.messages: dict[str, list[str]] = defaultdict(list)
        self.taken_back: set[str] = set()
        self.tools: dict[str, str] = {}
        self.status = ""
        self.run_id = ""
        self.gave_up = ""
        """What a request of the SDK's own failed with, while an edge was harmed."""
        self.unwatched = ""
        """What it gave up the run's own stream with, before its first event; messages go on."""
        self.final: Any = None
        self.subscribed = asyncio.Event()
        self._url, self._thread, self._graph, self._transport = url, thread, graph, transport

    async def follow(self, start: dict[str, Any] | None = None) -> None:
        """Read until the run is over."""
        async with (
            get_client(url=self._url) as client,
            client.threads.stream(
                thread_id=self._thread, assistant_id=self._graph, transport=self._transport
            ) as thread,
            asyncio.TaskGroup() as reading,
        ):
            await open_all(
                thread,
                reading,
                self._read_all(thread.messages, reading),
                self._calls(thread.tool_calls, reading),
                self._nested(thread.subgraphs, reading),
            )
            # from its first cursor on a cut loses nothing
            while thread._cursor is None or thread._lifecycle_cursor is None:
                if thread._cursor is not None and thread._run_done.done():
                    self.unwatched = repr(thread._run_done.result().error)
                    break
                await asyncio.sleep(0.005)
            self.subscribed.set()
            if start is not None:
                self.run_id = (await thread.run.start(**start))["run_id"]
            self.status = (await thread._wait_for_run_done()).status
            self.final = (await thread._fetch_state())["values"]

    async def _nested(self, handles: Any, reading: asyncio.TaskGroup) -> None:
        async for handle in handles:
            reading.create_task(self._read_all(handle.messages, reading))

    async def _read_all(self, messages: Any, reading: asyncio.TaskGroup) -> None:
        async for message in messages:
            reading.create_task(self._read(message))

    async def _read(self, message: Any) -> None:
        # one that is said again comes under another public id
        message_id = message.message_id.partition("~")[0]
        try:
            text = str(await message.text)
        except RuntimeError as error:
            if "taken back" not in str(error):
                raise
            self.taken_back.add(message_id)
        else:
            self.messages[message_id].append(text)

    async def _calls(self, calls: Any, reading: asyncio.TaskGroup) -> None:
        async for call in calls:
            reading.create_task(self._output(call))

    async def _output(self, call: Any) -> None:
        try:
            output = await call.output
        except RuntimeError:
            return  # taken back, or the tool failed
        self.tools[call.tool_call_id] = output
