"""The data of the local Postgres: where they lie, how they are made, mended and taken over.

Writes `postgres.password`, which only the owner can read, and `postgres/` in the stack's folder, or
a folder under /var/lib where the account of the server cannot reach the stack's.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path
from signal import SIGINT, SIGKILL
from typing import TYPE_CHECKING

from turnstream.deploy.local.machine import reachable, unprivileged_account
from turnstream.deploy.local.part import START_OVER, TAIL_LINES
from turnstream.deploy.local.process import identify, wait_gone
from turnstream.schemas.errors import PartError, StackError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from turnstream.deploy.local.postgres_programs import Binaries
    from turnstream.deploy.local.process import Account

USER = "turnstream"
_ROOTS_DATA = Path("/var/lib/turnstream")
_LEFTOVER_TIMEOUT_S = 10.0


def data_place(folder: Path) -> Path:
    """Return where the data of the stack in `folder` lies.

    Inside it, unless Postgres runs as an account that cannot reach the folder (root's home is
    closed to others): then in a folder of its own under /var/lib. Where there are data it stays.
    """
    inside = folder / "postgres"
    if unprivileged_account() is None:
        return inside
    outside = _ROOTS_DATA / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    if not (outside / "data").exists() and ((inside / "data").exists() or reachable(folder)):
        return inside
    return outside


def prepared(
    binaries: Binaries, folder: Path, *, log: Path, env: Mapping[str, str]
) -> tuple[Path, str]:
    """Return the server's data folder and the password of `USER`.

    Makes the cluster if there is none; else puts right what a crash or a move left of it. Raises
    `StackError` or `PartError` when it cannot.
    """
    place = data_place(folder)
    password, kept = _password(folder / "postgres.password")
    place.mkdir(parents=True, exist_ok=True)
    if binaries.account:
        os.chown(place, binaries.account.uid, binaries.account.gid)
    place.chmod(0o700)
    if not _mended(place / "data", binaries.account):
        _create_cluster(binaries, place, password, log, env)
    elif not kept:
        _set_password(binaries, place, password, env)
    return place / "data", password


def _password(path: Path) -> tuple[str, bool]:
    """Return the password, and whether it was there already; else it is a new one."""
    try:
        if password := path.read_text().strip():
            return password, True
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    password = secrets.token_urlsafe(24)
    path.touch(mode=0o600)
    path.write_text(password)
    return password, False


def _set_password(binaries: Binaries, place: Path, password: str, env: Mapping[str, str]) -> None:
    """Set a new password: the file with the old one is lost."""
    code, said = binaries.run(
        *("postgres", "--single", "-D", str(place / "data"), "postgres"),
        env=env,
        typed=f"ALTER USER {USER} PASSWORD '{password}'\n",
    )
    if code:
        tail = tuple(said.splitlines()[-TAIL_LINES:])
        raise PartError(part="postgres", cause="its password cannot be changed", tail=tail)


def _mended(data: Path, account: Account | None) -> bool:
    """Return whether there is a cluster; put right what a crash or a move may have left of it."""
    if data.is_dir() and not any(data.iterdir()):
        data.rmdir()
    if not data.exists():
        return False
    if not (data / "PG_VERSION").exists():
        raise StackError(f"{data} is damaged, it has no PG_VERSION; restore it, or {START_OVER}")
    if account is not None and data.stat().st_uid != account.uid:
        for path in (data, *data.rglob("*")):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    data.chmod(0o700)
    _end_leftover(data)
    return True


def _end_leftover(data: Path) -> None:
    """End a server that still runs on the data, and remove a pid file that names another process.

    The folder's lock is ours, so no supervisor uses it. Postgres itself takes any process of its
    account with the pid in the file for a server; after a reboot that may be any process.
    """
    file = data / "postmaster.pid"
    try:
        process = identify(int(file.read_text().split("\n", 1)[0]))
        on_data = Path(f"/proc/{process.pid}/cwd").resolve() == data.resolve()
    except (FileNotFoundError, StackError):
        return  # there is no such process: Postgres sees to its memory and the file
    except (OSError, ValueError):
        on_data = False
    if not on_data:
        file.unlink(missing_ok=True)
        return
    process.send(SIGINT)
    if wait_gone([process], _LEFTOVER_TIMEOUT_S):
        process.send(SIGKILL)
        wait_gone([process], _LEFTOVER_TIMEOUT_S)


def _create_cluster(
    binaries: Binaries, place: Path, password: str, log: Path, env: Mapping[str, str]
) -> None:
    """Run initdb beside the final place and move the result there: all of it, or nothing."""
    unfinished = place / "data.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    secret = place / "password"
    with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(password)
    if binaries.account:
        os.chown(secret, binaries.account.uid, binaries.account.gid)
    arguments: Sequence[str] = (
        f"--pgdata={unfinished}",
        f"--username={USER}",
        "--auth=scram-sha-256",
        f"--pwfile={secret}",
        "--encoding=UTF8",
        "--locale-provider=builtin",  # the same everywhere, whatever locales the machine has
        "--locale=C.UTF-8",
    )
    try:
        code, said = binaries.run("initdb", *arguments, env=env)
    finally:
        secret.unlink()
    with log.open("a") as file:
        file.write(said)
    if code:
        tail = tuple(said.splitlines()[-TAIL_LINES:])
        raise PartError(part="postgres", cause="initdb failed", tail=tail, log=str(log))
    unfinished.rename(place / "data")
