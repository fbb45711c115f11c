"""Clients that watch one turn on one thread, and what each of them ends up showing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from langgraph_sdk import get_client

from tests.integration.sdk_projections import open_all
from turnstream.schemas.fold.transcript import transcript


@dataclass
class Shown:
    """Messages and tool outputs that stand at the end, by id, and the ids of those taken back.

    `final` is the last message of the state that the client asked for at the end.
    """

    messages: dict[str, str] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    taken_back: set[str] = field(default_factory=set)
    final: str | None = None

    def finished(self, message_id: str, text: str) -> None:
        assert message_id not in self.messages, f"{message_id} is shown twice"
        self.messages[message_id] = text


def shown_in(view: Any) -> Shown:
    """What the fold of the log shows."""
    told = transcript(view)
    said = {m.message_id: m.text for m in told.messages if m.role == "assistant"}
    return Shown(said, {t.tool_call_id: t.output for t in told.tools if t.state == "finished"})


class PlainSocket:
    """A raw WebSocket at `/ws`; `seen` is `(monotonic seconds, message id)` for each token."""

    def __init__(self, url: str, thread: str) -> None:
        self.shown = Shown()
        self.seen: list[tuple[float, str]] = []
        self.rewinds = 0
        self.subscribed = asyncio.Event()
        self._url, self._thread = url, thread

    async def watch(self) -> Shown:
        saying: dict[str, str] = {}
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(f"{self._url}/ws", max_msg_size=0) as socket,
        ):
            await socket.send_json({"type": "subscribe", "thread_id": self._thread})
            async for frame in socket:
                event = frame.json()
                match event["type"]:
                    case "ok":
                        self.subscribed.set()
                    case "token":
                        self.seen.append((time.monotonic(), event["message_id"]))
                        before = saying.get(event["message_id"], "")
                        saying[event["message_id"]] = before + event["text"]
                    case "message" if event["role"] == "assistant":
                        text = saying.pop(event["message_id"], "")
                        assert text == event["text"], "the tokens are not the message"
                        self.shown.finished(event["message_id"], text)
                    case "tool" if event["state"] == "finished":
                        self.shown.tools[event["tool_call_id"]] = event["output"]
                    case "rewind":
                        self.rewinds += 1
                        for message_id in event["message_ids"]:
                            saying.pop(message_id, None)
                            self.shown.messages.pop(message_id, None)
                            self.shown.taken_back.add(message_id)
                        for call in event["tool_call_ids"]:
                            self.shown.tools.pop(call, None)
                    case "end":
                        assert event["status"] == "success", event
                        assert not saying, f"never finished: {saying}"
                        return self.shown
                    case "error":
                        raise AssertionError(event)
        raise AssertionError(f"the socket was closed with {socket.close_code}")


class Sdk:
    """The stock SDK's thread stream; the one that is given an `input` starts the run."""

    def __init__(self, url: str, thread: str, graph: str, transport: str) -> None:
        self.shown = Shown()
        self.subscribed = asyncio.Event()
        self._url, self._thread, self._graph, self._transport = url, thread, graph, transport

    async def watch(self, start: dict[str, Any] | None = None) -> Shown:
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
                self._messages(thread.messages, reading),
                self._tools(thread.tool_calls, reading),
                self._nested(thread.subgraphs, reading),
            )
            self.subscribed.set()
            if start is not None:
                await thread.run.start(**start)
            terminal = await thread._wait_for_run_done()
            assert terminal.status == "completed", terminal
            self.shown.final = (await thread._fetch_state())["values"]["messages"][-1]["content"]
        return self.shown

    async def _nested(self, handles: Any, reading: asyncio.TaskGroup) -> None:
        async for handle in handles:
            reading.create_task(self._messages(handle.messages, reading))

    async def _messages(self, messages: Any, reading: asyncio.TaskGroup) -> None:
        async for message in messages:
            reading.create_task(self._read(message))

    async def _read(self, message: Any) -> None:
        # one that is said again comes under another public id
        message_id = message.message_id.partition("~")[0]
        try:
            text = str(await message.text)
        except RuntimeError as error:
            assert "taken back" in str(error), error
            self.shown.taken_back.add(message_id)
            return
        self.shown.finished(message_id, text)

    async def _tools(self, calls: Any, reading: asyncio.TaskGroup) -> None:
        async for call in calls:
            reading.create_task(self._output(call))

    async def _output(self, call: Any) -> None:
        try:
            self.shown.tools[call.tool_call_id] = await call.output
        except RuntimeError as error:
            assert "taken back" in str(error), error
