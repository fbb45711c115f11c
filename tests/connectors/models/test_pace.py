"""Streams that are read a tick apart: nothing is lost, and wake-ups are shared."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING

from turnstream.connectors.models.openai import ModelLimits, OpenAIModel
from turnstream.connectors.models.scripted import ScriptedServer
from turnstream.schemas.chat import ChatRequest

if TYPE_CHECKING:
    from turnstream.schemas.chat import Delta


class Heard:
    """What came of one stream: the text, and when each read was pushed."""

    def __init__(self) -> None:
        self.text = ""
        self.at: list[float] = []

    def __call__(self, deltas: list[Delta]) -> None:
        self.text += "".join(delta.text for delta in deltas)
        self.at.append(time.monotonic())


async def answers(read_every_s: float, text: str, streams: int) -> list[Heard]:
    async with (
        ScriptedServer() as server,
        OpenAIModel(server.url, limits=ModelLimits(read_every_s=read_every_s)) as model,
    ):
        heard = [Heard() for _ in range(streams)]
        request = ChatRequest(messages=[{"role": "user", "content": text}], model="scripted")
        await asyncio.gather(*(model.stream(request, push) for push in heard))
        # the connections go back to the pool as they came
        again = Heard()
        await asyncio.wait_for(model.stream(request, again), 10)
    return [*heard, again]


async def test_nothing_is_lost_and_reads_are_fewer() -> None:
    text = "tokens=100 rate=400 ttft=0"
    at_once, paced = await answers(0.0, text, 5), await answers(0.05, text, 5)
    whole = at_once[0].text
    assert whole
    assert all(heard.text == whole for heard in (*at_once, *paced))
    reads = [sum(len(heard.at) for heard in row[:5]) for row in (at_once, paced)]
    assert reads[1] < reads[0] / 3, "100 tokens take 0.25 s: some 6 reads, not 100"


async def test_streams_share_their_moments() -> None:
    paced = (await answers(0.05, "tokens=50 rate=200 ttft=0", 8))[:8]
    moments = sorted(at for heard in paced for at in heard.at[1:])
    apart = [b - a for a, b in itertools.pairwise(moments)]
    together = sum(gap < 0.01 for gap in apart)
    assert together > len(apart) / 2, "eight streams are read at one wake-up"


async def test_first_bytes_do_not_wait() -> None:
    heard = (await answers(0.5, "tokens=3 rate=0 ttft=0", 1))[0]
    began = time.monotonic()
    heard = (await answers(0.5, "tokens=3 rate=0 ttft=0", 1))[0]
    assert heard.at[0] - began < 0.4
