"""Confluent framing with a registry: a small one in this process, and a real one (mark `registry`).

The real one is named by `TURNSTREAM_TEST_REGISTRY`, the URL of its Confluent API; Apicurio's is
`http://127.0.0.1:8080/apis/ccompat/v7`.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from turnstream.connectors.registry import COMPATIBILITY, RegistryUnavailableError, open_codec
from turnstream.schemas.errors import ConfigurationError, UnknownSchemaError
from turnstream.schemas.records.commands import StartTurn
from turnstream.schemas.records.known import schemas, schemas_by_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START = StartTurn(thread_id="t", text="hello")


class Registry:
    """What a registry answers, kept in dicts."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.subjects: dict[str, list[int]] = {}
        self.compatibility: dict[str, str] = {}
        self.refused = ""

    async def config(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self.compatibility[request.match_info["subject"]] = body["compatibility"]
        return web.json_response(body)

    async def register(self, request: web.Request) -> web.Response:
        subject = request.match_info["subject"]
        if subject == self.refused:
            return web.json_response({"error_code": 409, "message": "incompatible"}, status=409)
        number = self.add(subject, json.loads(await request.read())["schema"])
        return web.json_response({"id": number})

    def add(self, subject: str, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        number = self.texts.index(text) + 1
        known = self.subjects.setdefault(subject, [])
        if number not in known:
            known.append(number)
        return number

    async def versions(self, request: web.Request) -> web.Response:
        known = self.subjects.get(request.match_info["subject"], [])
        return web.json_response(list(range(1, len(known) + 1)))

    async def version(self, request: web.Request) -> web.Response:
        known = self.subjects[request.match_info["subject"]]
        number = known[int(request.match_info["version"]) - 1]
        return web.json_response({"id": number, "schema": self.texts[number - 1]})


@pytest.fixture
async def registry() -> AsyncIterator[tuple[Registry, str]]:
    registry = Registry()
    app = web.Application()
    app.router.add_put("/config/{subject}", registry.config)
    app.router.add_post("/subjects/{subject}/versions", registry.register)
    app.router.add_get("/subjects/{subject}/versions", registry.versions)
    app.router.add_get("/subjects/{subject}/versions/{version}", registry.version)
    async with TestServer(app) as server:
        yield registry, str(server.make_url(""))


async def test_records_carry_the_registrys_ids(registry: tuple[Registry, str]):
    held, url = registry

    codec = await open_codec(url)
    data = codec.encode(START)

    number = held.subjects["turnstream.StartTurn"][0]
    assert data[:5] == b"\0" + number.to_bytes(4, "big")
    assert codec.decode(data) == START
    assert set(held.compatibility) == {schema.subject for schema in schemas().values()}
    assert set(held.compatibility.values()) == {COMPATIBILITY}


async def test_records_of_an_older_schema_are_read(registry: tuple[Registry, str]):
    held, url = registry
    older = json.loads(schemas_by_name()["StartTurn"].text)
    older["fields"] = [field for field in older["fields"] if field["name"] != "on_busy"]
    number = held.add("turnstream.StartTurn", json.dumps(older))

    codec = await open_codec(url)
    now = codec.encode(START)
    then = b"\0" + number.to_bytes(4, "big") + now[5 : -len(b"\x0eenqueue")]

    assert codec.decode(then) == START  # the field it lacks has its default


async def test_an_id_that_nobody_knows(registry: tuple[Registry, str]):
    codec = await open_codec(registry[1])

    with pytest.raises(UnknownSchemaError):
        codec.decode(b"\0" + (10**6).to_bytes(4, "big") + b"x")


async def test_a_refused_schema_stops_the_start(registry: tuple[Registry, str]):
    held, url = registry
    held.refused = "turnstream.TurnResult"

    with pytest.raises(ConfigurationError, match=r"turnstream\.TurnResult"):
        await open_codec(url)


async def test_no_registry_is_a_retryable_error():
    with pytest.raises(RegistryUnavailableError):
        await open_codec("http://127.0.0.1:1")


async def test_without_a_registry_records_carry_fingerprints():
    codec = await open_codec("")

    assert codec.encode(START)[:2] == b"\xc3\x01"


@pytest.mark.registry
@pytest.mark.skipif("TURNSTREAM_TEST_REGISTRY" not in os.environ, reason="no registry is named")
async def test_a_real_registry():
    url = os.environ["TURNSTREAM_TEST_REGISTRY"]

    first, second = await open_codec(url), await open_codec(url)

    data = first.encode(START)
    assert data[0] == 0
    assert second.decode(data) == START
    assert second.encode(START) == data
