"""A schema registry with Confluent's API: register our schemas, learn those of others.

Subjects are record names (`turnstream.StartTurn`), compatibility BACKWARD_TRANSITIVE. Reads and
writes over HTTP, at start and when a reader meets an id that it does not know.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import aiohttp
import msgspec

from turnstream.connectors.avro import Codec
from turnstream.schemas.errors import (
    ConfigurationError,
    RegistryUnavailableError,
)
from turnstream.schemas.records.known import parse, schemas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

COMPATIBILITY = "BACKWARD_TRANSITIVE"
_CONFLICT = 409
_NOT_FOUND = 404
_TIMEOUT_S = 15.0
_CALLS_MAX = 8
Answer = TypeVar("Answer")

_TYPE = "application/vnd.schemaregistry.v1+json"


class _Registered(msgspec.Struct):
    """The answer to a schema that was registered."""

    id: int


class _Version(msgspec.Struct):
    """One version of a subject."""

    id: int
    schema: str


class Registry:
    """Calls to one registry; `writers` has the schemas that the codec reads by, see `load`."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url.rstrip("/")
        self._session = session
        self._calls = asyncio.Semaphore(_CALLS_MAX)
        self.writers: dict[int, tuple[str, dict[str, object]]] = {}

    async def register(self) -> dict[str, int]:
        """Register every schema of ours and return its id by record name; safe to repeat.

        Raises `ConfigurationError` where one is not compatible with what the registry holds.
        """
        known = list(schemas().values())
        await asyncio.gather(*(self._demand_compatibility(schema.subject) for schema in known))
        ids = await asyncio.gather(*(self._register(s.subject, s.text) for s in known))
        return {schema.name: number for schema, number in zip(known, ids, strict=True)}

    async def load(self) -> None:
        """Learn every version of every schema of ours, so that older records can be read."""
        for name, versions in await asyncio.gather(
            *(self._versions(schema.name, schema.subject) for schema in schemas().values())
        ):
            for number, text in versions:
                self.writers[number] = (name, parse(text))

    async def _register(self, subject: str, text: str) -> int:
        body = {"schema": text, "schemaType": "AVRO"}
        path = f"/subjects/{subject}/versions"
        answer = await self._call("POST", path, body, subject, _Registered)
        if answer is None:
            raise RegistryUnavailableError(f"{self._url}{path} does not exist")
        return answer.id

    async def _demand_compatibility(self, subject: str) -> None:
        body = {"compatibility": COMPATIBILITY}
        await self._call("PUT", f"/config/{subject}", body, subject, dict[str, object])

    async def _versions(self, name: str, subject: str) -> tuple[str, list[tuple[int, str]]]:
        path = f"/subjects/{subject}/versions"
        numbers = await self._call("GET", path, None, subject, list[int])
        found = await asyncio.gather(
            *(
                self._call("GET", f"{path}/{number}", None, subject, _Version)
                for number in numbers or ()
            )
        )
        return name, [(one.id, one.schema) for one in found if one is not None]

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, str] | None,
        subject: str,
        answer_type: type[Answer],
    ) -> Answer | None:
        """Return the answer, or None where a GET finds nothing (404)."""
        data = msgspec.json.encode(body) if body is not None else None
        try:
            async with (
                self._calls,
                self._session.request(
                    method, self._url + path, data=data, headers={"Content-Type": _TYPE}
                ) as response,
            ):
                answer = await response.read()
                if response.status == _CONFLICT:
                    raise ConfigurationError(
                        f"the registry refuses {subject}: {answer[:300].decode(errors='replace')}"
                    )
                if response.status == _NOT_FOUND and method == "GET":
                    return None
                response.raise_for_status()
                return msgspec.json.decode(answer, type=answer_type)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise RegistryUnavailableError(f"{method} {self._url}{path}: {error!r}") from error


@asynccontextmanager
async def open_registry(url: str) -> AsyncIterator[Registry]:
    """Open a registry's client."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Registry(url, session)


async def open_codec(url: str) -> Codec:
    """Return a codec: Confluent framing by the registry at `url`, or single-object without one.

    Registers our schemas. A process that reads for long should load again when an id is unknown.
    """
    if not url:
        return Codec()
    async with open_registry(url) as registry:
        ids = await registry.register()
        await registry.load()
        return Codec(ids=ids, writers=registry.writers)
