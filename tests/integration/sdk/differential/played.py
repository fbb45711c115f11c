"""What a turn showed and left, in a form that can be compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessageChunk, message_chunk_to_message

NORMALISED = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?"), "<time>"),
)
"""All that is taken from both sides before they are compared: ids and times."""


@dataclass
class Item:
    """One item of a stream: `mode`, or `mode|namespace`."""

    event: str
    data: Any


@dataclass
class Played:
    """A turn."""

    items: list[Item]
    state: dict[str, Any]
    history: list[dict[str, Any]]


def normalised(value: Any) -> Any:
    """Return the value without ids and times."""
    if isinstance(value, str):
        for pattern, name in NORMALISED:
            value = pattern.sub(name, value)
        return value
    if isinstance(value, dict):
        return {normalised(key): normalised(item) for key, item in value.items()}
    if isinstance(value, list):
        return [normalised(item) for item in value]
    return value


def merged(items: list[Item]) -> list[Item]:
    """Join the chunks of each message: how many there are is not LangGraph's promise."""
    out: list[Item] = []
    open_: dict[tuple[str, str], Item] = {}
    for item in items:
        if not item.event.startswith("messages"):
            out.append(item)
            continue
        message, metadata = item.data
        key = (item.event, message["id"])
        if message["type"] != "AIMessageChunk":
            out.append(item)
        elif (known := open_.get(key)) is None:
            open_[key] = Item(item.event, [_chunk(message), metadata])
            out.append(open_[key])
        else:
            known.data[0] += _chunk(message)
    for item in open_.values():
        item.data[0] = item.data[0].model_dump()
    return out


def whole(items: list[Item]) -> list[Item]:
    """Return messages as LangGraph's server makes them of tuples for the mode `messages`.

    Of each message its metadata and its last form: how many come between is nobody's promise.
    """
    out: list[Item] = []
    last: dict[str, Item] = {}
    are_tuples = any(item.event.partition("|")[0] == "messages" for item in items)
    for item in merged(items) if are_tuples else items:
        name = item.event.partition("|")[0]
        if name == "messages":
            message, metadata = item.data
            out.append(Item("messages/metadata", {message["id"]: {"metadata": metadata}}))
            if message["type"] == "AIMessageChunk":
                chunk = message_chunk_to_message(_chunk(message))
                message = chunk.model_dump()
            out.append(Item("messages", [message]))
        elif name in ("messages/partial", "messages/complete"):
            ((message,), known) = item.data, last.get(item.data[0]["id"])
            if known is None:
                known = last[message["id"]] = Item("messages", [])
                out.append(known)
            known.data = [message]
        else:
            out.append(item)
    return out


def _chunk(message: dict[str, Any]) -> AIMessageChunk:
    fields = {key: value for key, value in message.items() if value is not None and key != "type"}
    return AIMessageChunk(**fields)
