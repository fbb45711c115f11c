"""Who calls: bearer tokens (JWT) to a `Principal`.

HS256 with a shared secret, or asymmetric keys from a JWKS address; the algorithms are pinned by the
settings and never taken from the token. Tenant and roles come from claims only. Without either, the
edge runs in dev mode: everybody is `dev` in one tenant, which `server.py` allows on loopback only.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from math import log2
from typing import TYPE_CHECKING, Any, Protocol

import jwt

from turnstream.schemas.errors import (
    ConfigurationError,
    ForbiddenError,
    InvalidRequestError,
    TurnstreamError,
    UnauthorizedError,
)
from turnstream.schemas.ids import check_tenant
from turnstream.schemas.limits import check_label
from turnstream.streams.edge.server.keys import KeyServer

if TYPE_CHECKING:
    from collections.abc import Mapping

NEVER = float("inf")
SYMMETRIC = ("HS256",)
ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
SECRET_BYTES_MIN = 32  # RFC 7518 §3.2: a key of the hash's size or larger
SECRET_BITS_MIN = 48
# in documents and generators of tokens, and so in lists of those who try
PUBLISHED_SECRETS = ("a-string-secret-at-least-256-bits-long", "your-256-bit-secret-your-256-bit")
# what a browser cannot send as a header on a WebSocket, it sends as a subprotocol after this one
TOKEN_SUBPROTOCOL = "turnstream.bearer"  # noqa: S105  a protocol's name, no secret


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. `expires_at` is unix seconds (`inf`: never).

    `verified`: a token says so; not in dev mode, where everybody is the same caller.
    """

    tenant: str
    user: str
    roles: frozenset[str] = frozenset()
    expires_at: float = NEVER
    verified: bool = True

    @property
    def expired(self) -> bool:
        """Say whether the token is over by this machine's clock."""
        return time.time() >= self.expires_at


class Authenticator(Protocol):
    """What the edge asks for every request and socket."""

    @property
    def dev(self) -> bool:
        """Say whether everybody is let in."""
        ...

    async def authenticate(self, token: str | None) -> Principal:
        """Return the caller; raises `UnauthorizedError` or `ForbiddenError`."""
        ...


@dataclass(frozen=True, slots=True)
class DevAuthenticator:
    """Lets everybody in as one principal. For a machine that nobody else reaches."""

    tenant: str = "default"
    dev: bool = True

    async def authenticate(self, token: str | None) -> Principal:
        """Return the one principal, whatever the token."""
        del token
        return Principal(
            tenant=self.tenant, user="dev", roles=frozenset({"operator"}), verified=False
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Which claims mean what. `audience` and `issuer` are checked where they are given."""

    tenant: str = "tenant"
    user: str = "sub"
    roles: str = "roles"
    audience: str | None = None
    issuer: str | None = None
    leeway_s: float = 0.0


@dataclass(slots=True)
class JwtAuthenticator:
    """Check a JWT: signature, pinned algorithms, expiry (required), tenant.

    Exactly one of `secret` and `jwks_url` is given. Keys are cached for 5 minutes, so that a key
    that was withdrawn is refused by then unless the key server is away (an hour at most); they are
    fetched again for a key id that they lack, at most every `refetch_pause_s`. A key server that
    does not answer with keys is a 503, never a 401. Whatever a token holds is a 401 or a 403.
    """

    algorithms: tuple[str, ...]
    secret: str = ""
    jwks_url: str = ""
    claims: Claims = field(default_factory=Claims)
    dev: bool = False
    refetch_pause_s: float = 5.0
    _keys: KeyServer | None = None

    def __post_init__(self) -> None:
        """Prepare the key source."""
        if self.jwks_url:
            self._keys = KeyServer(self.jwks_url, self.refetch_pause_s)

    async def authenticate(self, token: str | None) -> Principal:
        """Return the token's principal; raises `UnauthorizedError`, `ForbiddenError`."""
        if not token:
            raise UnauthorizedError("a bearer token is needed", code="token_missing")
        try:
            return self._principal(self._payload(token, await self._key(token)))
        except TurnstreamError:
            raise
        except jwt.ExpiredSignatureError as error:
            raise UnauthorizedError("the token has expired", code="token_expired") from error
        except Exception as error:  # what a token holds is foreign, and so is what reads it
            raise UnauthorizedError("the token is not valid", code="token_invalid") from error

    def _payload(self, token: str, key: Any) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=list(self.algorithms),
            audience=self.claims.audience,
            issuer=self.claims.issuer,
            leeway=self.claims.leeway_s,
            options={
                "require": ["exp", self.claims.user, self.claims.tenant],
                "verify_aud": self.claims.audience is not None,
            },
        )

    async def _key(self, token: str) -> Any:
        if self._keys is None:
            return self.secret
        head = jwt.get_unverified_header(token)
        kid, algorithm = head.get("kid"), head["alg"]
        if algorithm not in self.algorithms or not isinstance(kid, str):
            raise UnauthorizedError("the token names no key of ours", code="token_invalid")
        return await self._keys.key(kid, algorithm)

    def _principal(self, payload: Mapping[str, Any]) -> Principal:
        tenant = payload[self.claims.tenant]
        user = payload[self.claims.user]
        roles = payload.get(self.claims.roles, [])
        if isinstance(roles, str):
            roles = roles.split()
        if not isinstance(tenant, str) or not isinstance(user, str) or not isinstance(roles, list):
            raise UnauthorizedError("the token's claims have other types", code="token_invalid")
        try:
            check_tenant(tenant)
        except InvalidRequestError as error:
            raise ForbiddenError(
                "the token's tenant is not a tenant's name", code="invalid_tenant"
            ) from error
        try:
            check_label(self.claims.user, user)
        except InvalidRequestError as error:
            raise UnauthorizedError(f"the token's {error}", code="token_invalid") from error
        if not user:
            raise UnauthorizedError(
                f"the token's {self.claims.user} is empty", code="token_invalid"
            )
        return Principal(
            tenant=tenant,
            user=user,
            roles=frozenset(role for role in roles if isinstance(role, str)),
            expires_at=float(payload["exp"]) + self.claims.leeway_s,
        )


def check_secret(secret: str) -> None:
    """Raise `ConfigurationError` for an HS256 secret that can be guessed.

    Its bits are estimated from the characters of its shortest repeated part.
    """
    if len(secret.encode()) < SECRET_BYTES_MIN:
        raise ConfigurationError(f"jwt_secret needs at least {SECRET_BYTES_MIN} bytes")
    part = secret[: (secret + secret).index(secret, 1)]
    shares = [count / len(part) for count in Counter(part).values()]
    bits = len(part) * sum(-share * log2(share) for share in shares)
    if bits < SECRET_BITS_MIN or secret in PUBLISHED_SECRETS:
        raise ConfigurationError(
            f"jwt_secret can be guessed (about {bits:.0f} bits): use a random one, for example from"
            " `openssl rand -hex 32`"
        )


def bearer(headers: Mapping[str, str]) -> str | None:
    """Return the token of an `Authorization: Bearer`, or of a browser socket's subprotocols.

    `headers` has lower-case names. A browser offers `turnstream.bearer, <token>`.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    offered = [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",")]
    if len(offered) > 1 and offered[0] == TOKEN_SUBPROTOCOL:
        return offered[1]
    # what LangGraph's SDK sends as its key
    return headers.get("x-api-key") or None
