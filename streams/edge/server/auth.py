"""The caller of a request: from a bearer token (JWT) to a `Principal`.

Keys are a shared secret (HS256), or asymmetric ones from a JWKS address. The settings pin the
algorithms; the token's own `alg` is never trusted. Tenant and roles come from claims only. With
neither secret nor address the edge runs in dev mode: every caller is `dev` in one tenant, which
`process.authenticator_of` allows on loopback only.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from math import log2
from typing import TYPE_CHECKING, Protocol

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

    from jwt.algorithms import AllowedPublicKeys

NEVER = float("inf")
SYMMETRIC = ("HS256",)
ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
SECRET_BYTES_MIN = 32  # RFC 7518 §3.2: a key of the hash's size or larger
SECRET_BITS_MIN = 48
# printed in documents and by token generators, so attackers try them
PUBLISHED_SECRETS = ("a-string-secret-at-least-256-bits-long", "your-256-bit-secret-your-256-bit")
# a browser cannot set headers on a WebSocket: it sends its token as a subprotocol after this one
TOKEN_SUBPROTOCOL = "turnstream.bearer"  # noqa: S105  a protocol's name, no secret


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. `expires_at` is in seconds since 1970 (`inf`: never).

    `verified`: it comes from a token. False in dev mode, where every caller is the same.
    """

    tenant: str
    user: str
    roles: frozenset[str] = frozenset()
    expires_at: float = NEVER
    verified: bool = True

    @property
    def expired(self) -> bool:
        """Return whether the token has expired by this machine's clock."""
        return time.time() >= self.expires_at


class Authenticator(Protocol):
    """Finds the caller of each request and socket."""

    @property
    def dev(self) -> bool:
        """Return whether no token is needed."""
        ...

    async def authenticate(self, token: str | None) -> Principal:
        """Return the caller; raises `UnauthorizedError` or `ForbiddenError`."""
        ...


@dataclass(frozen=True, slots=True)
class DevAuthenticator:
    """Takes every caller as one principal; for a machine that others cannot reach."""

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
    """The names of claims. `audience` and `issuer` are checked if they are given."""

    tenant: str = "tenant"
    user: str = "sub"
    roles: str = "roles"
    audience: str | None = None
    issuer: str | None = None
    leeway_s: float = 0.0


@dataclass(slots=True)
class JwtAuthenticator:
    """Checks a JWT: signature, pinned algorithms, expiry (required), tenant.

    Exactly one of `secret` and `jwks_url` is given. Keys are cached for 5 minutes, and for an hour
    while the key server is away: a withdrawn key is refused after that. An unknown key id makes the
    edge fetch keys again, at most every `refetch_pause_s`. If the key server does not answer with
    keys, the answer is a 503 and never a 401. A bad token is a 401 or a 403.
    """

    algorithms: tuple[str, ...]
    secret: str = ""
    jwks_url: str = ""
    claims: Claims = field(default_factory=Claims)
    dev: bool = False
    refetch_pause_s: float = 5.0
    _keys: KeyServer | None = None

    def __post_init__(self) -> None:
        """Make the client of the key server."""
        if self.jwks_url:
            self._keys = KeyServer(self.jwks_url, self.refetch_pause_s)

    async def authenticate(self, token: str | None) -> Principal:
        """Return the token's principal; raises `UnauthorizedError`, `ForbiddenError`."""
        if not token:
            raise UnauthorizedError(
                "send a token: Authorization: Bearer <token>", code="token_missing"
            )
        try:
            return self._principal(self._payload(token, await self._key(token)))
        except TurnstreamError:
            raise
        except jwt.ExpiredSignatureError as error:
            raise UnauthorizedError("the token has expired", code="token_expired") from error
        except Exception as error:  # a token is foreign input, and its parser foreign code
            raise UnauthorizedError("the token is not valid", code="token_invalid") from error

    def _payload(self, token: str, key: str | AllowedPublicKeys) -> Mapping[str, object]:
        payload: dict[str, object] = jwt.decode(
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
        return payload

    async def _key(self, token: str) -> str | AllowedPublicKeys:
        if self._keys is None:
            return self.secret
        head = jwt.get_unverified_header(token)
        kid, algorithm = head.get("kid"), head["alg"]
        if algorithm not in self.algorithms or not isinstance(kid, str):
            raise UnauthorizedError(
                "the token's header has no key id (kid) or another algorithm (alg)",
                code="token_invalid",
            )
        return await self._keys.key(kid, algorithm)

    def _principal(self, payload: Mapping[str, object]) -> Principal:
        tenant = payload[self.claims.tenant]
        user = payload[self.claims.user]
        expires_at = payload["exp"]
        roles = payload.get(self.claims.roles, [])
        if isinstance(roles, str):
            roles = roles.split()
        if not (
            isinstance(tenant, str)
            and isinstance(user, str)
            and isinstance(roles, list)
            and isinstance(expires_at, int | float | str)
        ):
            raise UnauthorizedError("a claim of the token has a wrong type", code="token_invalid")
        try:
            check_tenant(tenant)
        except InvalidRequestError as error:
            raise ForbiddenError(
                "the token's tenant is not a valid tenant name", code="invalid_tenant"
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
            expires_at=float(expires_at) + self.claims.leeway_s,
        )


def check_secret(secret: str) -> None:
    """Raise `ConfigurationError` for an HS256 secret that is short or can be guessed.

    Its entropy in bits is estimated from the characters of its shortest repeated part.
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
    """Return the token of `Authorization: Bearer`, of a socket's subprotocols, or of `x-api-key`.

    `headers` has lower-case names. A browser's socket offers `turnstream.bearer, <token>`.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    offered = [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",")]
    if len(offered) > 1 and offered[0] == TOKEN_SUBPROTOCOL:
        return offered[1]
    # LangGraph's SDKs send their key here
    return headers.get("x-api-key") or None
