"""The settings a command works with: as configured, and from the local stack where nothing is."""

from __future__ import annotations

from pathlib import Path

from turnstream.schemas.errors import ConfigurationError
from turnstream.streams.settings import Settings, load_settings, sources

LOCAL = "local stack"
_FROM_STACK = ("kafka_bootstrap", "database_url", "model_url", "model_name", "edge_url")


def configured(*needed: str) -> Settings:
    """Return the settings; raises `ConfigurationError` where one of `needed` cannot be found.

    A stack that runs in this folder (`turnstream up`) fills in what is not set.
    """
    settings, _ = configured_with_sources()
    for name in needed:
        value = getattr(settings, name)
        if not (value.get_secret_value() if hasattr(value, "get_secret_value") else value):
            raise ConfigurationError(
                f"TURNSTREAM_{name.upper()} is not set, and no local stack runs in this folder "
                "(`turnstream up` starts one)",
                field=name,
            )
    return settings


def configured_with_sources() -> tuple[Settings, dict[str, str]]:
    """Return the settings, and where each value comes from."""
    found = sources()
    local = {
        name: value for name, value in _local_stack().items() if value and found[name] == "default"
    }
    return load_settings(**local), {**found, **dict.fromkeys(local, LOCAL)}


def _local_stack() -> dict[str, str]:
    from turnstream.deploy.local import find_stack
    from turnstream.deploy.local.folder import DEFAULT_NAME

    state = find_stack(Path(DEFAULT_NAME))
    return {name: getattr(state, name) for name in _FROM_STACK} if state is not None else {}
