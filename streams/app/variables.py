"""Which variables of the environment are ours. A name that nothing reads is a mistake."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

PREFIX = "TURNSTREAM_"
OTHER_NAMES = {
    "TURNSTREAM_TOKEN": "bearer token of `turnstream chat`",
    "TURNSTREAM_TEST_*": "settings of the test suite; see CONTRIBUTING.md",
}
"""Variables with our prefix that are no settings, and what they are."""

# Kubernetes gives each pod such variables for a service whose name begins with "turnstream"
_SERVICE_LINK = re.compile(
    r"TURNSTREAM\w*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")


def unknown_names(
    settings: Collection[str],
    *,
    environment: Mapping[str, str],
    dotenv: Mapping[str, str | None],
) -> list[str]:
    """Return a sentence for each `TURNSTREAM_*` name that nothing reads, with the nearest name.

    `settings` are the settings' variables. Case does not matter, as in the settings.
    """
    known = {*settings, *(name for name in OTHER_NAMES if not name.endswith("*"))}
    families = tuple(name[:-1] for name in OTHER_NAMES if name.endswith("*"))
    found = []
    for place, variables in ((".env", dotenv), ("the environment", environment)):
        for given, value in sorted(variables.items()):
            name = given.upper()
            if not name.startswith(PREFIX) or name in known or name.startswith(families):
                continue
            if not _is_service_link(name, value or ""):
                [nearest] = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
                found.append(f"{name} in {place} is no setting (the nearest is {nearest})")
    return found


def _is_service_link(name: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(name):
        return True
    return name.endswith("_PORT") and bool(_SERVICE_ADDRESS.fullmatch(value))
