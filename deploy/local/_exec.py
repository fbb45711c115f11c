"""Become another program, after arranging to be told when the process that started us dies.

Run by its path as `python -I -S _exec.py SIGNAL PARENT UID GID PROGRAM ARGS…` (UID -1: stay who we
are). It is a program and not a `preexec_fn` because that one may deadlock in a process with
threads, and it drops privileges itself because the other account may not be able to run this
Python. The order matters: a change of credentials clears the death signal.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Drop privileges, set the death signal, exec."""
    death_signal, parent, uid, gid = (int(value) for value in argv[:4])
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    os.umask(0o077)  # no other account reads what a part writes
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    os.execv(argv[4], argv[4:])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
