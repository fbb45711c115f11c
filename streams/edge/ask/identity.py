"""Puts the verified caller into the config of a command. Pure.

With auth on, what nodes find about the caller comes from the verified token. A client's own values
for the same keys are replaced; without auth they pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnstream.schemas.records.command_rules import IDENTITY_KEYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from turnstream.streams.edge.server.auth import Principal


def identity_of(principal: Principal) -> dict[str, object]:
    """Return what nodes find about a verified caller, under the names of LangGraph's server."""
    roles = sorted(principal.roles)
    return {
        "user_id": principal.user,
        "tenant_id": principal.tenant,
        "roles": roles,
        "langgraph_auth_user_id": principal.user,
        "langgraph_auth_permissions": roles,
        "langgraph_auth_user": {
            "identity": principal.user,
            "display_name": principal.user,
            "is_authenticated": True,
            "permissions": roles,
            "tenant_id": principal.tenant,
            "roles": roles,
        },
    }


def config_for(
    principal: Principal, config: Mapping[str, object] | None
) -> Mapping[str, object] | None:
    """Return the config with the verified caller in it; as it is where no caller is verified."""
    if not principal.verified:
        return config
    given = dict(config or {})
    configurable = given.get("configurable")
    own = {
        key: value
        for key, value in (configurable if isinstance(configurable, dict) else {}).items()
        if key not in IDENTITY_KEYS
    }
    given["configurable"] = own | identity_of(principal)
    return given
