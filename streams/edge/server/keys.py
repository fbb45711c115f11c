"""Keys of a token issuer, from its JWKS address (RFC 7517).

A cached key is returned at once, whatever the key server does. At most one fetch is under way; all
callers that need it wait for the same one, outside any lock.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import jwt
import msgspec
import structlog

from turnstream.schemas.errors import ConfigurationError, UnauthorizedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jwt.algorithms import AllowedPublicKeys

_log = structlog.get_logger(__name__)
FETCH_TIMEOUT_S = 5.0
BODY_BYTES_MAX = 1 << 20
KEYS_MAX = 1000
REFRESH_AFTER_S = 240.0
"""Seconds after which the keys are fetched again; no request waits for this fetch."""
LIFESPAN_S = 300.0
"""Seconds after which a caller waits for newer keys, `GRACE_S` at most."""
GRACE_S = 1.0
STALE_MAX_S = 3600.0
"""Seconds after which no key is taken if the key server still does not answer."""
# per algorithm: the key's type, and the curve of an elliptic one
_FITTING = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "EdDSA": ("OKP", None),
}
_LONG_AGO = float("-inf")


class _KeySet(msgspec.Struct):
    keys: list[object]


@dataclass(slots=True)
class KeyServer:
    """The keys of an address.

    `pause_s`: seconds to the next fetch after one that failed or was made for an unknown key id.
    """

    url: str
    pause_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    fetches: int = 0
    _keys: tuple[dict[str, object], ...] = ()
    _fetched_at: float = _LONG_AGO
    _tried_at: float = _LONG_AGO
    _failed: bool = False
    _flight: asyncio.Task[None] | None = field(default=None)

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` for an address that is not HTTP(S)."""
        if not self.url.startswith(("http://", "https://")):
            raise ConfigurationError(f"jwks_url {self.url[:100]!r} has to be an http(s) address")

    async def key(self, kid: str, algorithm: str) -> AllowedPublicKeys:
        """Return the public key of an id; raises `UnauthorizedError`, `UnavailableError` (503)."""
        age = self.clock() - self._fetched_at
        if age > REFRESH_AFTER_S:
            flight = self._fetch()
            if flight is not None and age > LIFESPAN_S:
                waiting_s = GRACE_S - (self.clock() - self._tried_at) if age < STALE_MAX_S else None
                await _landed(flight, waiting_s)
        if self.clock() - self._fetched_at > STALE_MAX_S:
            raise UnavailableError("the key server does not answer")
        found = self._find(kid)
        if not found:
            flight = self._flight or self._fetch()
            if flight is not None:
                await _landed(flight)
            found = self._find(kid)
        if not found and self._failed:
            raise UnavailableError("the key server does not answer with keys")
        return _fitting(found, algorithm)

    def _find(self, kid: str) -> list[dict[str, object]]:
        return [key for key in self._keys if key["kid"] == kid]

    def _fetch(self) -> asyncio.Task[None] | None:
        """Return the fetch that is under way, a new one, or None during a pause."""
        if self._flight is None and self.clock() - self._tried_at >= self.pause_s:
            self._tried_at = self.clock()
            self._flight = asyncio.create_task(self._fly(), name="fetch keys")
        return self._flight

    async def _fly(self) -> None:
        self.fetches += 1
        try:
            self._keys = _keys_of(await _read(self.url))
            self._fetched_at, self._failed = self.clock(), False
        except Exception as error:  # noqa: BLE001  a key server may send anything; the cached keys stay
            self._failed = True
            _log.warning("key_fetch_failed", error_class=type(error).__name__)
        finally:
            self._tried_at = self.clock()
            self._flight = None


async def _landed(flight: asyncio.Task[None], timeout_s: float | None = None) -> None:
    """Wait for a fetch; others may wait for the same one, so it is not cancelled."""
    await asyncio.wait({flight}, timeout=None if timeout_s is None else max(0.0, timeout_s))


async def _read(url: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=True) as http,
        http.get(url, allow_redirects=False) as answer,
    ):
        answer.raise_for_status()
        body = bytearray()
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > BODY_BYTES_MAX:
                raise UnavailableError(f"the key server sent more than {BODY_BYTES_MAX} bytes")
        return bytes(body)


def _keys_of(body: bytes) -> tuple[dict[str, object], ...]:
    """Return the keys that can check signatures; raises `UnavailableError` if there is none."""
    keys = msgspec.json.decode(body, type=_KeySet).keys
    usable = tuple(
        key
        for key in keys[:KEYS_MAX]
        if isinstance(key, dict)
        and isinstance(key.get("kid"), str)
        and key.get("use") in {None, "sig"}
        and key.get("kty") in {"RSA", "EC", "OKP"}
    )
    if not usable:
        raise UnavailableError("the key server has no key that can check a signature")
    return usable


def _fitting(keys: list[dict[str, object]], algorithm: str) -> AllowedPublicKeys:
    """Return the key that fits a token's algorithm; raises `UnauthorizedError`."""
    kty, curve = _FITTING.get(algorithm, (None, None))
    for key in keys:
        if key["kty"] != kty or curve not in (None, key.get("crv")):
            continue
        if key.get("alg", algorithm) != algorithm:
            continue
        return _public(key, algorithm)
    raise UnauthorizedError("no key of the issuer fits the token", code="token_invalid")


def _public(key: Mapping[str, object], algorithm: str) -> AllowedPublicKeys:
    try:
        public: AllowedPublicKeys = jwt.PyJWK(dict(key), algorithm).key
    except Exception as error:
        raise UnavailableError("the key server has a key that cannot be read") from error
    return public
