"""The scripted server: directives, pacing, metrics, what it refuses; also by foreign clients."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import openai
import pytest

from turnstream.connectors.models.openai.client import OpenAIModel
from turnstream.deploy.local.scripted.answer import fault_in_history
from turnstream.deploy.local.scripted.script import Script, read_script
from turnstream.deploy.local.scripted.server import ScriptedServer
from turnstream.schemas.chat import ChatRequest, UserMessage


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def request(text: str) -> ChatRequest:
    return ChatRequest(messages=(UserMessage(text),))


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("", Script()),
        ("mytokens=4 x=3 tokens=", Script()),
        ("please tokens=5 rate=2.5", Script(tokens=5, rate=2.5)),
        ("scripted:tokens=5,ttft=0.5", Script(tokens=5, ttft=0.5)),
        ("tokens=many rate=2", Script(rate=2.0)),
        ('text="a \\"b\\" 흐름" seed=2', Script(text='a "b" 흐름', seed=2)),
        ("seed=1 text=all the rest tokens=3", Script(text="all the rest tokens=3", seed=1)),
        (
            'tool=f({"a":")"}) tool=g() tokens=1',
            Script(tool=(("f", '{"a":")"}'), ("g", "{}")), tokens=1),
        ),
        ("tool=f({bad) usage=0", Script(tool=(("f", "{bad"),), usage=False)),
        ("tool=f stamp=1", Script(stamp=True)),
    ],
)
def test_directives(text, script):
    assert read_script(text) == script


def test_a_message_stands_above_the_models_name():
    assert read_script("tokens=2", read_script("m:tokens=1,rate=5")) == Script(tokens=2, rate=5.0)


async def test_tokens_come_on_time():
    """Token k is due at start + ttft + k/rate; lateness must not add up."""
    async with (
        asyncio.timeout(60),
        ScriptedServer() as server,
        OpenAIModel(server.url, model="m") as model,
    ):
        late = [1.0]
        while min(late[-20:]) > 0.02:  # a busy machine delays some answers, not all of them
            at: list[float] = []
            start = time.monotonic()
            await model.stream(
                request("tokens=100 rate=200 ttft=0.1"),
                lambda deltas, at=at, start=start: at.extend(
                    [time.monotonic() - start] * len(deltas)
                ),
            )
            late = [seen - (0.1 + number / 200) for number, seen in enumerate(at)]
            assert min(late) > -0.002


async def test_stamps_tell_when_a_token_was_written():
    async with ScriptedServer() as server, OpenAIModel(server.url, model="m") as model:
        heard: list[tuple[int, str]] = []
        await model.stream(
            request("tokens=30 rate=500 stamp=1 reasoning=1"),
            lambda deltas: heard.extend(
                (time.monotonic_ns(), d.text) for d in deltas if d.kind == "text"
            ),
        )
        assert len(heard) == 30
        assert all(0 <= seen - int(text) < 60e9 for seen, text in heard)


async def test_the_openai_package_agrees_streamed_and_not():
    async with (
        ScriptedServer() as server,
        openai.AsyncOpenAI(base_url=server.url, api_key="x") as client,
    ):
        whole = await client.chat.completions.create(
            model="scripted", messages=ask("tokens=20 reasoning=2 seed=3")
        )
        text, usage = "", None
        stream = await client.chat.completions.create(
            model="scripted",
            messages=ask("tokens=20 reasoning=2 seed=3"),
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            usage = chunk.usage or usage
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        assert text == whole.choices[0].message.content
        assert usage.completion_tokens == whole.usage.completion_tokens == 22
        assert [entry.id async for entry in client.models.list()] == ["scripted"]


async def test_the_openai_package_reads_tool_calls():
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    async with (
        ScriptedServer() as server,
        openai.AsyncOpenAI(base_url=server.url, api_key="x") as client,
    ):
        answer = await client.chat.completions.create(
            model="m", messages=ask('tool=f({"a":1})'), tools=tools
        )
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.arguments == '{"a":1}'
        history = [
            *ask('tool=f({"a":1})'),
            answer.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "done"},
        ]
        answer = await client.chat.completions.create(model="m", messages=history, tools=tools)
        assert answer.choices[0].message.content == "The tools say: done"
        answer = await client.chat.completions.create(model="m", messages=ask("tool=f({})"))
        assert answer.choices[0].finish_reason == "stop"  # none were offered


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health HTTP/1.1\r\ncontent-length: many\r\n\r\n", b"400 "),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"400 "),
        (b"nonsense\r\n\r\n", b"400 "),
        (b"GET /health HTTP/1.1\r\nx: " + b"a" * (65 << 10), b"413 "),
    ],
)
async def test_bytes_that_are_no_request_are_refused_once(sent, status):
    async with ScriptedServer() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert answer.count(b"HTTP/1.1") == 1
        writer.close()


async def test_a_body_that_waits_for_leave_gets_it():
    async with ScriptedServer(api_key="k") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\nexpect: 100-continue\r\n"
        )
        writer.write(head + b"authorization: Bearer k\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert b" 400 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize("given", ["", "authorization: k\r\n", "authorization: Bearer x\r\n"])
async def test_a_request_without_the_key_is_refused(given):
    async with ScriptedServer(api_key="k") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET /v1/models HTTP/1.1\r\n{given}\r\n".encode())
        assert b" 401 " in await reader.readline()
        writer.close()


def test_a_history_that_real_servers_refuse_is_refused():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c", "content": "r"}
    bad = {**said, "tool_calls": [{**call, "function": {"name": "f", "arguments": "{"}}]}
    assert not fault_in_history([*ask("x"), said, result])
    assert "without an answer" in fault_in_history([*ask("x"), said])
    assert "without an answer" in fault_in_history([said, *ask("x")])
    assert "must follow" in fault_in_history([*ask("x"), result])
    assert "no JSON object" in fault_in_history([*ask("x"), bad, result])
    assert "unknown role" in fault_in_history([{"role": "robot"}])


async def test_metrics_have_vllms_names():
    async with (
        ScriptedServer(slots=1) as server,
        aiohttp.ClientSession() as http,
        OpenAIModel(server.url, model="m") as model,
    ):
        calls = [
            asyncio.create_task(model.stream(request("tokens=5000 rate=100"), lambda _: None))
            for _ in range(2)
        ]
        async with asyncio.timeout(60):
            while not server.waiting:
                await asyncio.sleep(0.002)
        async with http.get(server.url.removesuffix("/v1") + "/metrics") as response:
            text = await response.text()
        for line in (
            'vllm:num_requests_running{engine="0",model_name="scripted"} 1',
            'vllm:num_requests_waiting{engine="0",model_name="scripted"} 1',
            'vllm:kv_cache_usage_perc{engine="0",model_name="scripted"} 1',
        ):
            assert line in text
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/health", None, 200),
        ("GET", "/nothing", None, 404),
        ("GET", "/v1/chat/completions", None, 404),
        ("POST", "/v1/chat/completions", b"{bad", 400),
        ("POST", "/v1/chat/completions", b'{"model":"m"}', 400),
        ("POST", "/v1/chat/completions", b'{"messages":[{"role":"user"}]}', 200),
    ],
)
async def test_routes_and_what_is_refused(method, path, body, status):
    async with ScriptedServer() as server, aiohttp.ClientSession() as http:
        url = server.url.removesuffix("/v1") + path
        for _ in range(2):  # the connection stays usable
            async with http.request(method, url, data=body) as response:
                assert response.status == status
                await response.read()
        assert len(server.connections) == 1


async def test_a_slow_reader_is_waited_for():
    async with ScriptedServer() as server:
        reader, writer = await asyncio.open_connection(server.host, server.port, limit=1 << 12)
        body = b'{"stream":true,"messages":[{"role":"user","content":"tokens=50000"}]}'
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        async with asyncio.timeout(60):
            while not any(connection.full for connection in server.connections):
                await asyncio.sleep(0.002)
            last = b""
            while not last.endswith(b"[DONE]\n\n\r\n0\r\n\r\n"):
                data = await reader.read(1 << 20)
                assert data
                last = last[-64:] + data
        writer.close()
        assert server.finished["stop"] == 1
