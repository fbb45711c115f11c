"""The baseline: the in-process template that most people start from.

FastAPI, LangGraph with the stock Postgres saver (durability "sync"), ChatOpenAI, `astream_events`;
one SSE `data:` line a token. `python -m tests.bench.template PORT MODEL_URL DATABASE_URL`.
"""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel


class Turn(BaseModel):
    thread_id: str
    text: str


def build(model_url: str, saver: AsyncPostgresSaver | None):
    model = ChatOpenAI(
        model="scripted", base_url=model_url, api_key="none", streaming=True, stream_usage=True
    )

    async def answer(state: MessagesState):
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", answer)
    graph.add_edge(START, "model")
    graph.add_edge("model", END)
    return graph.compile(checkpointer=saver)


def make_app(model_url: str, database_url: str) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI):
        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        async with AsyncConnectionPool(
            database_url, min_size=8, max_size=8, kwargs=options
        ) as pool:
            saver = AsyncPostgresSaver(pool)
            await saver.setup()
            app.state.graph = build(model_url, saver)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/chat")
    async def chat(turn: Turn) -> StreamingResponse:
        async def lines():
            events = app.state.graph.astream_events(
                {"messages": [{"role": "user", "content": turn.text}]},
                {"configurable": {"thread_id": turn.thread_id}},
                version="v2",
                durability="sync",
            )
            async for event in events:
                if event["event"] == "on_chat_model_stream" and event["data"]["chunk"].content:
                    yield f"data: {json.dumps({'text': event['data']['chunk'].content})}\n\n"
            yield 'data: {"completed": true}\n\n'

        return StreamingResponse(lines(), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    port, url, database = sys.argv[1:]
    uvicorn.run(make_app(url, database), host="127.0.0.1", port=int(port), log_level="warning")
