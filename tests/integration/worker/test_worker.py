"""A worker on the real stack: a command in, events and a result out, the ledger closed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import aiohttp

from turnstream.connectors.avro import Codec
from turnstream.connectors.postgres.ledger.ledger import Ledger
from turnstream.deploy.local.machine import Ports
from turnstream.schemas.fold.transcript import transcript
from turnstream.schemas.records.commands import Command
from turnstream.schemas.records.events import TurnCompleted
from turnstream.schemas.text import text_sha256


async def test_a_turn_from_end_to_end(scene) -> None:
    async with scene.worker():
        turn = await scene.start("t1", "tokens=20", correlation_id="c-1")
        view = await scene.done("t1", turn)
        assert isinstance(view.terminal, TurnCompleted)
        shown = transcript(view).messages[-1]
        assert shown.intact
        assert shown.text == view.terminal.text
        assert view.terminal.sha256 == text_sha256(shown.text)
        assert not view.partial
        assert view.gaps == 0
        result = (await scene.until(lambda: scene.results))[0]
        assert result.correlation_id == "c-1"
        assert result.text == shown.text
        row = await scene.closed(turn)
        assert row["attempts"] is None or row["attempts"] == 1
        assert [u.output_tokens for u in result.usage] == [20]


async def test_a_command_is_encoded_once_and_not_decoded_again_at_its_claim(
    scene, monkeypatch
) -> None:
    """Unless another call than its admission claimed it: then only its body is there."""
    counts: Counter[str] = Counter()
    encode, decode, reclaim = Codec.encode, Codec.decode, Ledger.reclaim

    def encoding(self: Codec, record: Any) -> bytes:
        counts["encode"] += isinstance(record, Command)
        return encode(self, record)

    def decoding(self: Codec, data: bytes) -> Any:
        record = decode(self, data)
        counts["decode"] += isinstance(record, Command)
        return record

    async def reclaiming(self: Ledger, *given: Any) -> Any:
        claims = await reclaim(self, *given)
        counts["reclaimed"] += len(claims)
        return claims

    async with scene.worker():
        monkeypatch.setattr(Codec, "encode", encoding)
        monkeypatch.setattr(Codec, "decode", decoding)
        monkeypatch.setattr(Ledger, "reclaim", reclaiming)
        turn = await scene.start("t1", "tokens=3")
        await scene.done("t1", turn)
        await scene.closed(turn)
    assert counts["encode"] == 1, "the record was JSON; this is the turn's body"
    assert counts["decode"] == counts["reclaimed"]


async def test_the_health_port_says_ready_counts_and_stops_saying_so(scene) -> None:
    port = Ports().take()

    async def get(http: aiohttp.ClientSession, path: str) -> tuple[int, str]:
        async with http.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, await response.text()

    async with (
        aiohttp.ClientSession() as http,
        scene.worker(worker_health_port=port) as worker,
    ):
        assert (await get(http, "/readyz"))[0] == 200
        assert (await get(http, "/healthz"))[0] == 200
        turn = await scene.start("t1", "tokens=3")
        await scene.done("t1", turn)
        await scene.closed(turn)
        _, text = await get(http, "/metrics")
        assert 'turnstream_turns_total{code="",status="completed"} 1.0' in text
        assert "turnstream_tokens_total 3.0" in text
        assert "turnstream_commands_admitted 1.0" in text
        slow = await scene.start("t2", "tokens=100 rate=50")
        await scene.until(lambda: scene.view("t2", slow))
        worker.stop()
        status, text = await get(http, "/readyz")
        assert status == 503
        assert "draining" in text
