"""Settings that cannot work, alone or together, each in one sentence. Pure; asks no server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from turnstream.schemas.errors import ConfigurationError, InvalidRequestError
from turnstream.schemas.ids import check_tenant
from turnstream.schemas.topics import COMMAND_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnstream.streams.app.settings import Settings

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_SERVER = re.compile(r"(\[[^\]]+\]|[^\s:,]+)(:\d{1,5})?")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{0,100}")


def contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the setting and a sentence for each that cannot work."""
    for tenant in settings.tenants:
        try:
            check_tenant(tenant)
        except InvalidRequestError as error:
            yield "tenants", str(error)
    if len(set(settings.tenants)) < len(settings.tenants):
        yield "tenants", "a tenant is named twice"
    for server in filter(None, settings.kafka_bootstrap.split(",")):
        if not _SERVER.fullmatch(server.strip()):
            yield "kafka_bootstrap", "it is a list of host:port with commas between"
    if not _TOPIC.fullmatch(settings.topic_prefix):
        text = f"{settings.topic_prefix!r} cannot begin a topic's name: letters, digits, . _ -"
        yield "topic_prefix", text
    if settings.log_level.lower() not in LOG_LEVELS:
        yield "log_level", f"unknown level {settings.log_level!r}; use {', '.join(LOG_LEVELS)}"
    if settings.model_backoff_s > settings.model_backoff_max_s:
        yield "model_backoff_s", "it is more than model_backoff_max_s, the longest pause"
    yield from _between_limits(settings)
    named = settings.jwt_audience or settings.jwt_issuer
    if named and not (settings.jwt_secret.get_secret_value() or settings.jwks_url):
        yield "jwt_audience", "no token is checked: jwt_secret and jwks_url are both empty"


def _between_limits(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the setting and a sentence for each bound that leaves no room for another."""
    if strays := sorted(set(settings.json_result_tenants) - set(settings.tenants)):
        yield "json_result_tenants", f"{', '.join(strays)} is not in tenants: add it there"
    blocked_s, replaced_s = settings.graph_block_timeout_s, settings.loop_block_max_s
    if 0 < replaced_s <= blocked_s:  # 0: every blocked worker restarts at once
        text = (
            f"a worker restarts after loop_block_max_s ({replaced_s:g}), so no graph is stopped"
            f" after {blocked_s:g} s: set it lower, or loop_block_max_s higher"
        )
        yield "graph_block_timeout_s", text
    for name in ("text_chars_max", "metadata_bytes_max"):
        size = getattr(settings, name)
        if size > settings.edge_body_bytes_max:
            text = f"{name} allows {size}, which is no request of so many bytes: set at least that"
            yield "edge_body_bytes_max", text
        if size > settings.edge_frame_bytes_max:
            text = f"{name} allows {size}, which is no frame of so many bytes: set at least that"
            yield "edge_frame_bytes_max", text
    if settings.text_chars_max + settings.metadata_bytes_max > COMMAND_BYTES_MAX:
        text = f"with metadata_bytes_max it is above the {COMMAND_BYTES_MAX} bytes of a command"
        yield "text_chars_max", f"{text}: set either lower"


def refuse_contradictions(settings: Settings) -> Settings:
    """Return the settings; raises `ConfigurationError` that names all that cannot work."""
    found = [f"TURNSTREAM_{name.upper()}: {text}" for name, text in contradictions(settings)]
    if found:
        raise ConfigurationError("; ".join(found))
    return settings
