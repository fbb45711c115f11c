"""The model client against the scripted server, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from turnstream.connectors.models.openai.client import ModelLimits, OpenAIModel
from turnstream.connectors.models.openai.endings import is_at_limit
from turnstream.connectors.models.openai.request import request_body
from turnstream.deploy.local.scripted.server import ScriptedServer
from turnstream.schemas.chat import (
    AssistantMessage,
    CallResult,
    ChatAnswer,
    ChatRequest,
    Delta,
    ImagePart,
    Instruction,
    RequestedCall,
    TextPart,
    ToolSpec,
    UserMessage,
)
from turnstream.schemas.errors import (
    ModelBadResponseError,
    ModelContextError,
    ModelError,
    ModelFirstTokenTimeoutError,
    ModelOverloadedError,
    ModelRefusedError,
    ModelStreamCutError,
    ModelTokenGapTimeoutError,
    ModelUnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

QUICK = ModelLimits(first_token_timeout_s=60, token_gap_timeout_s=60)
TOOL = ToolSpec(name="add", description="Add.", parameters={"type": "object"})


def ask(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest(messages=(UserMessage(text),), **fields)


class Heard:
    """What a client pushed."""

    def __init__(self) -> None:
        self.reads: list[list[Delta]] = []

    def __call__(self, deltas: list[Delta]) -> None:
        self.reads.append(deltas)

    def text(self, kind: str = "text") -> str:
        return "".join(d.text for read in self.reads for d in read if d.kind == kind)


@asynccontextmanager
async def scripted(
    limits: ModelLimits = QUICK, **server: Any
) -> AsyncIterator[tuple[ScriptedServer, OpenAIModel]]:
    async with (
        ScriptedServer(**server) as running,
        OpenAIModel(running.url, limits=limits) as model,
    ):
        yield running, model


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("how", ["", " rate=500", " split=1", " split=7", " rate=2000 split=3"])
async def test_text_reasoning_and_usage_arrive_whole(how):
    async with scripted() as (_, model):
        heard = Heard()
        answer = await model.stream(ask(f"reasoning=3 tokens=40 seed=5{how}"), heard)
        other = Heard()
        await model.stream(ask("reasoning=3 tokens=40 seed=5"), other)
        assert heard.text() == other.text()
        assert heard.text("reasoning") == other.text("reasoning")
        assert len(heard.text().split()) == 40
        assert answer.finish_reason == "stop"
        assert answer.model == "scripted"
        assert answer.usage is not None
        assert (answer.usage.output_tokens, answer.usage.reasoning_tokens) == (43, 3)


async def test_both_names_of_reasoning_are_read():
    async with scripted() as (_, model):
        heard = Heard()
        await model.stream(ask("reasoning=3 tokens=1 reasoning_field=reasoning"), heard)
        assert len(heard.text("reasoning").split()) == 3


async def test_deltas_of_one_read_come_in_one_call():
    async with scripted() as (_, model):
        heard = Heard()
        await model.stream(ask("tokens=2000"), heard)
        assert sum(map(len, heard.reads)) == 2000
        assert len(heard.reads) < 1000


async def test_tool_calls_arrive_in_pieces():
    async with scripted() as (_, model):
        heard = Heard()
        answer = await model.stream(
            ask('tool=add({"left":1,"right":2}) tool=add({})', tools=(TOOL,)), heard
        )
        first, second = ([d for r in heard.reads for d in r if d.index == i] for i in (0, 1))
        assert answer.finish_reason == "tool_calls"
        assert first[0].tool_name == "add"
        assert first[0].tool_call_id != second[0].tool_call_id
        assert "".join(d.text for d in first) == '{"left":1,"right":2}'
        assert "".join(d.text for d in second) == "{}"


async def test_the_request_is_hashed_as_it_was_sent():
    async with scripted() as (server, model):
        request = ask("hello", params={"temperature": 0.1}, tools=(TOOL,), model="named")
        answer = await model.stream(request, Heard())
        body = request_body(request, "named")
        assert answer.request_sha256 == hashlib.sha256(body).hexdigest()
        assert server.requests[-1].model == "named"
        assert server.requests[-1].tools[0]["function"]["name"] == "add"
        assert msgspec.json.decode(body)["temperature"] == 0.1


def test_messages_in_the_apis_form():
    call = RequestedCall("c1", "f", {"a": 1})
    request = ChatRequest(
        messages=(
            Instruction("be nice"),
            UserMessage((TextPart("look"), ImagePart("u"), ImagePart("v", "low"))),
            AssistantMessage("", (call,)),
            CallResult("c1", "done"),
            AssistantMessage("ab"),
        ),
        tools=(TOOL,),
    )
    assert msgspec.json.decode(request_body(request, "m")) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be nice"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "u"}},
                    {"type": "image_url", "image_url": {"url": "v", "detail": "low"}},
                ],
            },
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a":1}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "done"},
            {"role": "assistant", "content": "ab"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "add",
                    "description": "Add.",
                    "parameters": {"type": "object"},
                },
            }
        ],
    }


@pytest.mark.parametrize(
    ("reason", "at_limit"),
    [
        ("length", True),
        ("max_tokens", True),
        ("MAX_TOKENS", True),
        ("model_length", True),
        ("stop", False),
        ("tool_calls", False),
    ],
)
def test_reasons_that_tell_of_the_limit(reason, at_limit):
    assert is_at_limit(reason) is at_limit


async def test_an_answer_that_the_limit_cut_says_so():
    async with scripted() as (_, model):
        cut = await model.stream(ask("tokens=9", params={"max_tokens": 2}), Heard())
        whole = await model.stream(ask("tokens=2"), Heard())
        assert (cut.at_limit, whole.at_limit) == (True, False)


async def test_lone_surrogates_are_sent_as_replacement_characters():
    async with scripted() as (server, model):
        await model.stream(ask("a\ud800b"), Heard())
        assert server.requests[-1].messages[0]["content"] == "a\ufffdb"


async def test_the_first_listed_model_is_used_where_none_is_named():
    async with scripted(model="only") as (server, model):
        assert await model.models() == ["only"]
        answer = await model.stream(ask("hello"), Heard())
        assert answer.model == server.requests[-1].model == "only"


async def test_an_answer_without_usage():
    async with scripted() as (_, model):
        answer = await model.stream(ask("tokens=1 usage=0"), Heard())
        assert answer.usage is None


async def test_a_key_is_sent():
    async with ScriptedServer(api_key="secret") as server:
        async with OpenAIModel(server.url, api_key="secret", model="m") as model:
            await model.stream(ask("hello"), Heard())
        async with OpenAIModel(server.url, api_key="wrong", model="m") as model:
            with pytest.raises(ModelRefusedError) as caught:
                await model.stream(ask("hello"), Heard())
    assert caught.value.code == "model_http_401"
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("script", "kind", "code", "retryable"),
    [
        ("error=400", ModelRefusedError, "model_http_400", False),
        ("error=404", ModelRefusedError, "model_http_404", False),
        ("error=429", ModelOverloadedError, "model_http_429", True),
        ("error=500", ModelOverloadedError, "model_http_500", True),
        ("error=503", ModelOverloadedError, "model_http_503", True),
        ("error=context", ModelContextError, "model_context_length", False),
        ("hangup=1", ModelUnreachableError, "model_unreachable", True),
        ("tokens=9 cut_after=0", ModelStreamCutError, "model_stream_cut", True),
        ("tokens=9 cut_after=4", ModelStreamCutError, "model_stream_cut", True),
        ("tokens=9 error_after=0", ModelOverloadedError, "model_http_500", True),
        ("tokens=9 error_after=4", ModelOverloadedError, "model_http_500", True),
    ],
)
async def test_each_failure_has_a_code_and_ends_the_call(script, kind, code, retryable):
    async with scripted() as (server, model):
        heard = Heard()
        with pytest.raises(kind) as caught:
            await model.stream(ask(script, model="scripted"), heard)
        assert caught.value.code == code
        assert type(caught.value) is kind
        assert caught.value.retryable is retryable
        assert len(server.requests) == 1
        assert len(heard.text().split()) == (4 if "after=4" in script else 0)
        await until(lambda: not server.running)


async def test_retry_after_is_told():
    async with scripted() as (_, model):
        with pytest.raises(ModelOverloadedError) as caught:
            await model.stream(ask("tokens=1 error=429 retry_after=60"), Heard())
        assert caught.value.retry_after_s == 60


async def test_a_server_that_is_not_there():
    async with ScriptedServer() as gone:
        url = gone.url
    async with OpenAIModel(url, model="m", limits=QUICK) as model:
        with pytest.raises(ModelUnreachableError) as caught:
            await model.stream(ask("hello"), Heard())
        assert caught.value.retryable
        with pytest.raises(ModelUnreachableError):
            await model.models()


async def test_a_server_that_never_begins():
    limits = ModelLimits(first_token_timeout_s=0.1, token_gap_timeout_s=60)
    async with scripted(limits) as (server, model):
        with pytest.raises(ModelFirstTokenTimeoutError, match="before the first token") as caught:
            await model.stream(ask("tokens=9 stall_after=0"), Heard())
        assert caught.value.code == "model_first_token_timeout"
        await until(lambda: not server.running)
        with pytest.raises(ModelFirstTokenTimeoutError):
            await model.stream(ask("tokens=9 ttft=30"), Heard())
        assert len(server.requests) == 2


async def test_a_server_that_takes_the_request_and_sends_no_headers():
    left = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)  # until the client hangs up
        writer.close()
        left.set()

    limits = ModelLimits(first_token_timeout_s=0.1)
    async with await asyncio.start_server(deaf, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with OpenAIModel(f"http://127.0.0.1:{port}/v1", model="m", limits=limits) as model:
            with pytest.raises(ModelFirstTokenTimeoutError):
                await model.stream(ask("hello"), Heard())
            await asyncio.wait_for(left.wait(), 60)


async def test_comments_are_no_sign_of_life():
    left = asyncio.Event()

    async def pinging(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        writer.write(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b": ping\n\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        left.set()

    limits = ModelLimits(token_gap_timeout_s=0.1)
    async with await asyncio.start_server(pinging, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with OpenAIModel(f"http://127.0.0.1:{port}/v1", model="m", limits=limits) as model:
            with pytest.raises(ModelTokenGapTimeoutError, match="between"):
                await model.stream(ask("hello"), Heard())
            await asyncio.wait_for(left.wait(), 60)


@pytest.mark.parametrize(
    ("begin", "drop", "error"),
    [
        (b"", b"d", ModelFirstTokenTimeoutError),
        (b"", b"data:\n\n", ModelFirstTokenTimeoutError),
        (b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n', b" ",
         ModelTokenGapTimeoutError),
        ((b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
         b"data: [DONE]\n\n"), b": ping\n\n", None),
    ],
)  # fmt: skip
async def test_drops_of_bytes_are_no_sign_of_life(begin, drop, error):
    left = asyncio.Event()

    async def dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + begin)
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(drop)
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        left.set()

    limits = ModelLimits(first_token_timeout_s=0.3, token_gap_timeout_s=0.3)
    async with await asyncio.start_server(dripping, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with OpenAIModel(f"http://127.0.0.1:{port}/v1", model="m", limits=limits) as model:
            if error is None:
                assert (await model.stream(ask("hello"), Heard())).finish_reason == "stop"
            else:
                with pytest.raises(error):
                    await model.stream(ask("hello"), Heard())
            await asyncio.wait_for(left.wait(), 60)


async def test_a_server_that_stops_in_the_middle():
    limits = ModelLimits(first_token_timeout_s=60, token_gap_timeout_s=1.0)
    async with scripted(limits) as (server, model):
        heard = Heard()
        with pytest.raises(ModelTokenGapTimeoutError, match="between two tokens") as caught:
            await model.stream(ask("tokens=9 rate=1000 stall_after=4"), heard)
        assert caught.value.code == "model_token_gap_timeout"
        assert len(heard.text().split()) == 4
        await until(lambda: not server.running)


async def test_a_long_answer_outlives_both_time_outs():
    limits = ModelLimits(first_token_timeout_s=3.0, token_gap_timeout_s=3.0)
    async with scripted(limits) as (_, model):
        heard = Heard()
        await model.stream(ask("tokens=280 rate=80"), heard)  # 3.5 s
        assert len(heard.text().split()) == 280


@pytest.mark.parametrize(
    "script",
    ["tokens=3", "error=503", "tokens=9 error_after=3", "tokens=3 finish=abort", "hangup=1"],
)
async def test_a_call_leaves_nothing_that_only_a_collection_frees(script):
    async with scripted() as (_, model):

        async def call() -> None:
            with contextlib.suppress(ModelError):
                await model.stream(ask(script, model="scripted"), Heard())

        await call()
        gc.disable()
        gc.freeze()  # what is there already does not count, nor is looked at
        try:
            for _ in range(50):
                await call()
            assert gc.collect() < 50  # less than one object a call
        finally:
            gc.unfreeze()
            gc.enable()


async def test_cancel_closes_the_connection():
    async with scripted(slots=1) as (server, model):
        heard = Heard()
        call = asyncio.create_task(model.stream(ask("tokens=100000 rate=100"), heard))
        await until(lambda: heard.reads)
        waits = asyncio.create_task(model.stream(ask("tokens=1"), Heard()))
        await until(lambda: server.waiting)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await waits  # it got the slot
        assert server.aborted == 1
        assert not server.running


async def test_what_push_raises_ends_the_call():
    async with scripted() as (server, model):

        def push(_: list[Delta]) -> None:
            raise RuntimeError("closed")

        with pytest.raises(RuntimeError, match="closed"):
            await model.stream(ask("tokens=100 rate=50"), push)
        await until(lambda: not server.running)


async def test_an_answer_beyond_the_bound_is_refused():
    async with scripted(ModelLimits(answer_bytes_max=10_000)) as (_, model):
        with pytest.raises(ModelBadResponseError, match="10000"):
            await model.stream(ask("tokens=5000"), Heard())


async def test_connections_are_used_again_and_bounded():
    limits = ModelLimits(connections_max=4)
    async with scripted(limits) as (server, model):
        peak = 0

        async def one() -> ChatAnswer:
            nonlocal peak
            answer = await model.stream(ask("tokens=5 rate=500"), Heard())
            peak = max(peak, len(server.connections))
            return answer

        await asyncio.gather(*(one() for _ in range(40)))
        assert len(server.connections) <= peak <= 4


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
SAID = b'data: {"choices":[{"index":0,"delta":{"content":"all"},"finish_reason":"stop"}]}\n\n'


@asynccontextmanager
async def writing(*parts: bytes, api_key: str = "", **limits: float) -> AsyncIterator[OpenAIModel]:
    """A client of a server that writes these parts and leaves its connections open."""
    over = asyncio.Event()

    async def write(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
        await over.wait()
        writer.close()

    async with await asyncio.start_server(write, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url, bounds = f"http://127.0.0.1:{port}/v1", ModelLimits(**limits)
        async with OpenAIModel(url, model="m", api_key=api_key, limits=bounds) as model:
            yield model
        over.set()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("end", [b"", b"data: [DONE]\n\n"])
async def test_a_whole_answer_whose_body_does_not_end_is_an_answer(end):
    """It is not waited for: behind [DONE] for a moment, else for the gap of two tokens."""
    async with writing(STREAM, chunk(SAID + end), token_gap_timeout_s=0.2) as model:
        heard = Heard()
        answer = await model.stream(ask("hello"), heard)
        assert (heard.text(), answer.finish_reason) == ("all", "stop")


async def test_a_tool_call_that_waits_for_its_arguments_is_said_when_the_time_is_over():
    call = (
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"x",'
        b'"function":{"name":"add"}}]},"finish_reason":"tool_calls"}]}\n\n'
    )
    text = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    async with writing(STREAM, chunk(text + call), token_gap_timeout_s=0.2) as model:
        heard = Heard()
        await model.stream(ask("hello", tools=(TOOL,)), heard)
        (said,) = (d for read in heard.reads for d in read if d.kind == "tool_args")
        assert (said.tool_name, said.tool_call_id) == ("add", "x")


async def test_a_line_without_an_end_is_bounded():
    async with writing(STREAM, *[chunk(b"data: " + b"x" * 65_530)] * 20) as model:
        with pytest.raises(ModelBadResponseError, match="event above"):
            await model.stream(ask("hello"), Heard())


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"data":[{"id":"a"},{"id":5},{},null,"x",{"name":"b"}]}', ["a", "b"]),
        (b'{"object":"list","data":null}', []),
        (b'{"models":[{"name":"a"}]}', ["a"]),
        (b'[{"id":"a"}]', ["a"]),
        (b'{"data":{}}', None),
        (b"{}", None),
        (b'"a"', None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
async def test_lists_of_models(body, names):
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with writing(head + body) as model:
        if names is None:
            with pytest.raises(ModelBadResponseError):
                await model.models()
        else:
            assert await model.models() == names


async def test_no_error_tells_where_the_server_is():
    async with ScriptedServer() as gone:
        url = gone.url
    async with OpenAIModel(url, model="m", limits=QUICK) as model:
        for call in (model.models(), model.stream(ask("hello"), Heard())):
            with pytest.raises(ModelUnreachableError) as caught:
                await call
            assert str(caught.value) == "the model server cannot be reached: Connection refused"


async def test_the_client_s_own_key_is_not_shown():
    body = b'{"error":{"message":"no such key: hunter2!, see the list"}}'
    head = b"HTTP/1.1 401 X\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with writing(head + body, api_key="hunter2!") as model:
        with pytest.raises(ModelRefusedError) as caught:
            await model.stream(ask("hello"), Heard())
    assert str(caught.value) == "the model server answered 401: no such key: [key], see the list"


async def test_an_answer_that_is_no_stream():
    async def page(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(page, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with OpenAIModel(f"http://127.0.0.1:{port}/v1", model="m", limits=QUICK) as model:
            with pytest.raises(ModelBadResponseError, match="no event stream"):
                await model.stream(ask("hello"), Heard())
            with pytest.raises(ModelBadResponseError):
                await model.models()
