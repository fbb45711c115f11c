"""Runs under the oldest SDK that speaks the thread protocol; prints what it saw as JSON.

Usage: python oldest_conversation.py <url of the edge>. Imports nothing but the SDK.
"""

import asyncio
import json
import sys

from langgraph_sdk import get_client


def user(text: str) -> dict:
    return {"messages": [{"role": "user", "content": text}]}


async def runs(client) -> dict:
    thread = await client.threads.create()
    thread_id = thread["thread_id"]
    created = []
    values = {}
    texts: dict[str, str] = {}
    async for part in client.runs.stream(
        thread_id,
        "agent",
        input=user('tool=current_time({"zone":"Asia/Seoul"}) tokens=9'),
        stream_mode=["values", "messages-tuple"],
        on_run_created=created.append,
    ):
        if part.event == "values":
            values = part.data
        elif part.event == "messages":
            message = part.data[0]
            texts[message["id"]] = texts.get(message["id"], "") + message["content"]
    answer = values["messages"][-1]
    waiting = await client.threads.create()
    asked = await client.runs.wait(waiting["thread_id"], "approval", input=user("hi"))
    answered = await client.runs.wait(
        waiting["thread_id"],
        "approval",
        command={"resume": {asked["__interrupt__"][0]["id"]: True}},
    )
    # a join without modes shows those that the run was started with
    long = await client.runs.create(
        thread_id, "agent", input=user("tokens=2000 rate=50"), stream_mode="messages-tuple"
    )
    parts = 0
    async for _ in client.runs.join_stream(thread_id, long["run_id"]):
        parts += 1
        if parts == 10:
            await client.runs.cancel(thread_id, long["run_id"], wait=True)
    return {
        "types": [message["type"] for message in values["messages"]],
        "streamed": texts[answer["id"]] == answer["content"],
        "created": created[0]["thread_id"] == thread_id,
        "answer": answered["messages"][-1]["content"],
        "cancelled": (await client.runs.get(thread_id, long["run_id"]))["status"],
        "state": (await client.threads.get_state(thread_id))["next"],
    }


async def protocol(client, transport: str) -> dict:
    async def text(message) -> str:
        return await message.text

    async with client.threads.stream(assistant_id="agent", transport=transport) as thread:
        await thread.run.start(input=user("tokens=6 rate=30"))
        # the iterator feeds the messages: they are read beside it
        reads = [asyncio.ensure_future(text(message)) async for message in thread.messages]
        texts = await asyncio.gather(*reads)
        output = await thread.output
    return {"texts": texts, "final": output["messages"][-1]["content"]}


async def main() -> None:
    client = get_client(url=sys.argv[1])
    seen = {"runs": await runs(client)}
    for transport in ("sse", "websocket"):
        seen[transport] = await asyncio.wait_for(protocol(client, transport), 60)
    await client.aclose()
    print(json.dumps(seen))


asyncio.run(main())
