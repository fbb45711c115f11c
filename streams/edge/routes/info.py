"""The version and features of this server, for clients that ask for them first."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter

from turnstream.streams.edge.routes.deps import JsonAnswer
from turnstream.streams.edge.routes.shapes import Info, Ok

router = APIRouter(tags=["info"])


@router.get("/ok", response_model=Ok, summary="Alive")
async def ok() -> JsonAnswer:
    """Answer while the edge lives."""
    return JsonAnswer({"ok": True})


@router.get("/info", response_model=Info, summary="Version and features")
async def info() -> JsonAnswer:
    """Return the version, and which optional parts of LangGraph's API are served."""
    flags = {"assistants": True, "crons": False, "store": False, "langsmith": False}
    return JsonAnswer({"version": version("turnstream"), "flags": flags})
