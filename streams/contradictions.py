"""Settings that cannot work, alone or together, each in one sentence. Pure; asks no server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from turnstream.schemas.errors import ConfigurationError, InvalidRequestError
from turnstream.schemas.ids import check_tenant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnstream.streams.settings import Settings

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
        yield "log_level", f"{settings.log_level!r} is none of {', '.join(LOG_LEVELS)}"
    if settings.model_backoff_s > settings.model_backoff_max_s:
        yield "model_backoff_s", "it is more than model_backoff_max_s, the longest pause"
    named = settings.jwt_audience or settings.jwt_issuer
    if named and not (settings.jwt_secret.get_secret_value() or settings.jwks_url):
        yield "jwt_audience", "no token is checked: jwt_secret and jwks_url are both empty"


def refuse_contradictions(settings: Settings) -> Settings:
    """Return the settings; raises `ConfigurationError` that names all that cannot work."""
    found = [f"TURNSTREAM_{name.upper()}: {text}" for name, text in contradictions(settings)]
    if found:
        raise ConfigurationError("; ".join(found))
    return settings
