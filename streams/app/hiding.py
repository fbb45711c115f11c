"""Texts that people read, without the passwords and keys that addresses in them hold."""

from __future__ import annotations

import re

from pydantic import SecretStr

HIDDEN = "********"

_USER = re.compile(r"(?<=://)[^\s\"'<>]*@|(?<![^\s,;\"'])[^\s,;/@:\"']+:(?!//)[^\s,\"']+@")
_SECRET = re.compile(
    r"([\w.-]*(?:key|token|secret|passw|pwd|credential|signature|auth)[\w.-]*\s*=\s*)"
    r"('(?:[^'\\]|\\.)*'|[^\s&#;,\"']+)",
    re.IGNORECASE,
)


def hidden(text: str) -> str:
    """Return a text with asterisks for the user part of each address and for `password=…`.

    The user part goes up to the last @, because a password may hold one that is not quoted.
    """
    return _SECRET.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))


def shown(value: object) -> object:
    """Return a setting's value as JSON can hold it, without secrets."""
    if isinstance(value, SecretStr):
        return HIDDEN if value.get_secret_value() else ""
    if isinstance(value, (tuple, list)):
        return [shown(one) for one in value]
    if isinstance(value, dict):
        return {hidden(str(key)): shown(one) for key, one in value.items()}
    if isinstance(value, (int, float, bool, type(None))):
        return value
    return hidden(str(value))
