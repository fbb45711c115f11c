"""A surface that somebody adds: what models say, in capitals. One projection and one route."""

from contextlib import aclosing

from fastapi import APIRouter

from turnstream.schemas.records.events import TokensEmitted
from turnstream.streams.edge.deliver.event_stream import EventStream, sse
from turnstream.streams.edge.follow.cursor import Cursor
from turnstream.streams.edge.follow.surface import follow
from turnstream.streams.edge.routes.deps import Caller
from turnstream.streams.edge.surfaces.encoding import encode

router = APIRouter()


class Capitals:
    """A thread's tokens in capitals, `END` behind each turn, and `OOPS` for what is taken back."""

    def opened(self):
        return ["HELLO"]

    def reset(self, *, alive):
        return ["RESET", alive]

    def apply(self, change):
        shown = ["OOPS"] if change.dropped else []
        if isinstance(change.record, TokensEmitted):
            shown.append(change.record.text.upper())
        elif getattr(change.record, "terminal", False):
            shown.append("END")
        return shown


@router.get("/threads/{thread_id}/capitals")
async def capitals(rest: Caller, thread_id: str, since: int | None = None):
    key = await rest.key(thread_id)
    after = None if since is None else Cursor.of_seq(since)

    async def events():
        async with aclosing(follow(rest.edge.feed, key, Capitals, after)) as shown:
            async for seq, text in shown:
                yield sse("capitals", encode(text), seq)

    return EventStream.of(events(), rest.edge.sockets, rest.caller)
