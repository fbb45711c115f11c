"""What model servers really send, and the one outcome of each."""

from __future__ import annotations

from typing import Any

import pytest
from recorded_exchanges import Exchange, ReplayServer, exchanges

from turnstream.connectors.models.openai.client import ModelLimits, OpenAIModel
from turnstream.connectors.models.openai.deltas import DeltaParser
from turnstream.schemas.chat import ChatRequest, Delta, ToolSpec, UserMessage
from turnstream.schemas.errors import ModelError, ModelOverloadedError

QUICK = ModelLimits(first_token_timeout_s=60, token_gap_timeout_s=60)
TOOLS = tuple(ToolSpec(name=name, description="", parameters={}) for name in ("add", "calculate"))
PLAYED = exchanges()


def heard(deltas: list[Delta]) -> dict[str, Any]:
    """Return what the deltas say, without what is empty."""
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        if delta.kind == "tool_args":
            call = calls.setdefault(delta.index, [delta.tool_name, ""])
            call[1] += delta.text
    said: dict[str, Any] = {
        kind: "".join(d.text for d in deltas if d.kind == kind) for kind in ("text", "reasoning")
    }
    said["calls"] = [calls[index] for index in sorted(calls)]
    return {name: value for name, value in said.items() if value}


async def outcome(model: OpenAIModel, name: str) -> dict[str, Any]:
    deltas: list[Delta] = []
    request = ChatRequest(messages=(UserMessage(name),), tools=TOOLS)
    found: dict[str, Any]
    try:
        answer = await model.stream(request, deltas.extend)
    except ModelError as error:
        found = {"code": error.code, "message": str(error), "retryable": error.retryable}
        if isinstance(error, ModelOverloadedError) and error.retry_after_s:
            found["wait"] = error.retry_after_s
    else:
        found = {"finish": answer.finish_reason}
        if answer.usage is not None:
            found["usage"] = [answer.usage.input_tokens, answer.usage.output_tokens]
    return heard(deltas) | found


@pytest.mark.parametrize("size", [1 << 16, 5])
async def test_each_exchange_has_its_outcome(size: int) -> None:
    wrong = {}
    async with (
        ReplayServer(PLAYED, size) as server,
        OpenAIModel(server.url, model="m", limits=QUICK) as model,
    ):
        for exchange in PLAYED:
            found = await outcome(model, exchange.name)
            if found != exchange.expected:
                wrong[exchange.name] = found, exchange.expected
    assert server.asked == [exchange.name for exchange in PLAYED]
    assert not wrong


@pytest.mark.parametrize(
    "exchange", [one for one in PLAYED if one.status == 200], ids=lambda one: one.name
)
def test_bytes_one_at_a_time_say_the_same(exchange: Exchange) -> None:
    def read(size: int) -> tuple[Any, ...]:
        parser, deltas = DeltaParser({tool.name for tool in TOOLS}), []
        try:
            for at in range(0, len(exchange.body), size):
                deltas += parser.feed(exchange.body[at : at + size])
            deltas += parser.end()
        except ModelError as error:
            return heard(deltas), str(error)
        return heard(deltas), parser.whole, parser.error, parser.finish_reason, parser.usage

    assert read(1) == read(1 << 20)
