"""Postgres that can be killed, stopped, restored from a backup, and replaced by its standby.

A restore is what an operator does: a base backup taken while the server ran is put in the place of
the data, and the server recovers from it. It ends its recovery on a new timeline, so that the
ledger sees a higher one (`sql/timeline.sql`); what was committed after the backup is gone. In a
fail-over a synchronous standby is promoted, on a new timeline too, and nothing is gone. It then
moves to the address of the one that died, as a service's address does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg

from tests.chaos.parts.server import Launcher, Server
from turnstream.deploy.local import machine
from turnstream.deploy.local.postgres import postgres_part, server_answers
from turnstream.deploy.local.postgres_data import data_place
from turnstream.deploy.local.postgres_programs import Binaries, find_binaries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_WRITABLE_TIMEOUT_S = 30.0
_FOLLOWS = """
SELECT pid FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'
"""
_OPTIONS = {
    "max_connections": "500",
    "shared_buffers": "256MB",
    # where recovery from a backup ends: there is no archive to go on with
    "restore_command": "false",
    "wal_keep_size": "0",
    "checkpoint_timeout": "60s",
}


class Database:
    """The server; `open` it."""

    def __init__(self, folder: Path, launcher: Launcher, ports: machine.Ports) -> None:
        self._folder, self._launcher = folder, launcher
        self._port, self._standby_port = ports.take(), ports.take()
        self._replacing: asyncio.Task[None] | None = None

    async def start(self, options: Mapping[str, str] | None = None) -> None:
        """Create it and wait until it serves."""
        part = await asyncio.to_thread(
            postgres_part,
            folder=self._folder,
            log=self._folder / "postgres.log",
            cache=machine.cache_folder(),
            env=machine.environment(),
            port=self._port,
            options={**_OPTIONS, **(options or {})},
        )
        self.url = part.url
        self.server = Server(part, self._launcher)
        await self.server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def close(self) -> None:
        """End it and remove its data."""
        await self.server.kill()
        shutil.rmtree(self._place, ignore_errors=True)

    async def back_up(self) -> None:
        """Keep a copy of what is committed now, in the place of an earlier one."""
        await self._copy("backup", "--wal-method=fetch")

    async def _copy(self, name: str, *options: str) -> None:
        shutil.rmtree(self._place / name, ignore_errors=True)
        parts = urlsplit(self.url)
        code, said = await asyncio.to_thread(
            self._binaries.run,
            "pg_basebackup",
            f"--pgdata={self._place / name}",
            f"--host={parts.hostname}",
            f"--port={parts.port}",
            f"--username={parts.username}",
            "--checkpoint=fast",
            "--no-sync",
            *options,
            env={**machine.environment(), "PGPASSWORD": parts.password or ""},
        )
        if code:
            raise AssertionError(f"pg_basebackup: {said}")

    async def restore(self) -> None:
        """Kill it, put the last backup in the place of its data, and wait until it takes writes.

        Once begun it goes on to its end, also when who waits for it is cancelled.
        """
        self._replacing = asyncio.create_task(self._restore())
        await asyncio.shield(self._replacing)

    async def fail_over(self, after_s: float) -> None:
        """Give it a synchronous standby, and after so many seconds kill it and promote that.

        It goes on to its end, too.
        """
        self._replacing = asyncio.create_task(self._fail_over(after_s))
        await asyncio.shield(self._replacing)

    async def whole(self) -> None:
        """Start it if it is down, and wait until it takes writes."""
        if self._replacing is not None:
            await self._replacing
        await self.server.start()
        await asyncio.to_thread(self.wait_writable)

    async def _restore(self) -> None:
        await self.server.kill()
        await asyncio.to_thread(self._put_back)
        await self.server.start()
        await asyncio.to_thread(self.wait_writable)

    async def _fail_over(self, after_s: float) -> None:
        await self._copy(
            "standby",
            "--wal-method=stream",
            "--write-recovery-conf",
            "--create-slot",
            "--slot=standby",
        )
        at = self.url.replace(f":{self._port}/", f":{self._standby_port}/")
        binary, _, _, *flags = self.server.part.argv
        flags.append(f"-cport={self._standby_port}")
        part = dataclasses.replace(
            self.server.part,
            argv=(binary, "-D", str(self._place / "standby"), *flags),
            ready=lambda: server_answers(at),
            ports={"server": self._standby_port},
        )
        standby = Server(part, self._launcher)
        await standby.start()
        try:
            await asyncio.to_thread(self._wait_for_the_standby)
            await asyncio.sleep(after_s)
            await self.server.kill()
            await asyncio.to_thread(_promote, at)
        finally:
            await standby.stop()
        await asyncio.to_thread(self._replace_by, "standby")
        await self.server.start()
        await asyncio.to_thread(self.wait_writable)

    def _wait_for_the_standby(self) -> None:
        """From now on no commit is acknowledged that the standby has not written to its disk."""
        deadline = time.monotonic() + _WRITABLE_TIMEOUT_S
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            while not connection.execute(_FOLLOWS).fetchall():
                if time.monotonic() > deadline:
                    raise AssertionError("the standby does not follow")
                time.sleep(0.05)

    def _put_back(self) -> None:
        self._replace_by("backup")
        signal = self._place / "data" / "recovery.signal"
        signal.touch(mode=0o600)
        if account := self._binaries.account:
            os.chown(signal, account.uid, account.gid)

    def _replace_by(self, name: str) -> None:
        data, lost = self._place / "data", self._place / "lost"
        data.rename(lost)  # a backend that has not yet noticed goes on in there
        (self._place / name).rename(data)
        shutil.rmtree(lost, ignore_errors=True)

    def wait_writable(self) -> None:
        """Wait until recovery has ended: before that it answers, and refuses writes."""
        deadline = time.monotonic() + _WRITABLE_TIMEOUT_S
        while True:
            with psycopg.connect(self.url, autocommit=True) as connection:
                if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,):
                    return
            if time.monotonic() > deadline:
                raise AssertionError("Postgres does not end its recovery")
            time.sleep(0.05)

    @property
    def _place(self) -> Path:
        return data_place(self._folder)

    @property
    def _binaries(self) -> Binaries:
        return find_binaries(machine.cache_folder(), machine.environment())


def _promote(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT pg_promote(wait => true)").fetchone() == (True,)
