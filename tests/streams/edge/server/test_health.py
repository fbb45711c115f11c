"""What the edge says of itself."""

from __future__ import annotations

import asyncio

import httpx


async def checked(client, wanted):
    """Wait until `/readyz` has a word for the workers; the edge has to be ready all the time."""
    async with asyncio.timeout(60):
        while True:
            got = await client.get("/readyz")
            assert got.status_code == 200, got.text
            word = got.json()["checks"]["workers"]
            if word.startswith(wanted):
                return word
            await asyncio.sleep(0.05)


async def metric(client, name):
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def test_an_edge_without_workers_is_ready_and_says_so(edge, worker):
    async with httpx.AsyncClient(base_url=edge.url, timeout=60) as client:
        await checked(client, "ok")
        assert await metric(client, "turnstream_edge_workers") == 1
        await worker.pool.execute("DELETE FROM workers")
        assert "no worker holds a lease" in await checked(client, "off")
        assert await metric(client, "turnstream_edge_workers") == 0
