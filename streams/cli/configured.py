"""The settings of a command: as configured; the local stack fills in what is not set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.schemas.errors import ConfigurationError
from turnstream.streams.app.settings import Settings, load_settings, sources
from turnstream.streams.cli.options import HERE

if TYPE_CHECKING:
    from pathlib import Path

LOCAL = "local stack"
_FROM_STACK = ("kafka_bootstrap", "database_url", "model_url", "model_name", "edge_url")


def configured(*needed: str, folder: Path = HERE) -> Settings:
    """Return the settings; raises `ConfigurationError` where one of `needed` cannot be found.

    A stack that runs on the folder (`turnstream up`) fills in what is not set.
    """
    settings, _ = configured_with_sources(folder)
    for name in needed:
        value = getattr(settings, name)
        if not (value.get_secret_value() if hasattr(value, "get_secret_value") else value):
            where = "in this folder" if folder == HERE else f"on {folder}"
            more = "" if folder == HERE else f" --dir {folder}"
            raise ConfigurationError(
                f"TURNSTREAM_{name.upper()} is not set, and no local stack runs {where} "
                f"(`turnstream up{more}` starts one)",
                field=name,
            )
    return settings


def configured_with_sources(folder: Path = HERE) -> tuple[Settings, dict[str, str]]:
    """Return the settings, and where each value comes from."""
    found = sources()
    local = {
        name: value
        for name, value in _local_stack(folder).items()
        if value and found[name] == "default"
    }
    return load_settings(**local), {**found, **dict.fromkeys(local, LOCAL)}


def _local_stack(folder: Path) -> dict[str, str]:
    from turnstream.deploy.local import find_stack

    state = find_stack(folder)
    return {name: getattr(state, name) for name in _FROM_STACK} if state is not None else {}
