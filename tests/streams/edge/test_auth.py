"""Tokens to principals: a shared secret, and keys from a real JWKS address that rotate."""

from __future__ import annotations

import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode
from pydantic import SecretStr

from turnstream.schemas.errors import ForbiddenError, UnauthorizedError, UnavailableError
from turnstream.streams.edge.auth import ASYMMETRIC, SYMMETRIC, Claims, JwtAuthenticator

SECRET = "s" * 32
CLAIMS = {"sub": "ann", "tenant": "acme", "roles": ["operator"]}


def _payload(**changes):
    return {**CLAIMS, "exp": time.time() + 60, **changes}


class Keys:
    """A JWKS address with the keys that it was given."""

    def __init__(self):
        self.keys, self.asked = {}, 0
        holder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                holder.asked += 1
                body = json.dumps({"keys": list(holder.keys.values())}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def add(self, kid, private):
        algorithm = RSAAlgorithm if isinstance(private, rsa.RSAPrivateKey) else ECAlgorithm
        jwk = algorithm.to_jwk(private.public_key(), as_dict=True)
        self.keys[kid] = {**jwk, "kid": kid, "use": "sig"}

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def keys():
    served = Keys()
    yield served
    served.stop()


def _shared(**claims):
    return JwtAuthenticator(algorithms=SYMMETRIC, secret=SECRET, claims=Claims(**claims))


def _signed(payload, key=SECRET, algorithm="HS256", **headers):
    return jwt.encode(payload, key, algorithm=algorithm, headers=headers or None)


async def test_a_shared_secret_gives_tenant_user_and_roles():
    principal = await _shared().authenticate(_signed(_payload()))
    assert (principal.tenant, principal.user) == ("acme", "ann")
    assert principal.roles == {"operator"}
    assert 0 < principal.expires_at - time.time() <= 60


@pytest.mark.parametrize(
    "token",
    [
        None,
        "",
        "not.a.token",
        _signed(_payload(), "x" * 32),
        _signed(_payload(exp=1)),
        _signed({"sub": "ann", "tenant": "acme"}),
        _signed(_payload(), algorithm="HS512", key="s" * 64),
        jwt.encode(_payload(), None, algorithm="none"),
    ],
    ids=["none", "empty", "nonsense", "other-key", "expired", "no-expiry", "other-alg", "alg-none"],
)
async def test_what_is_no_valid_token(token):
    with pytest.raises(UnauthorizedError):
        await _shared().authenticate(token)


@pytest.mark.parametrize("tenant", ["a/b", "", "acme\n", 7, None])
async def test_a_tenant_that_cannot_be_one(tenant):
    with pytest.raises((ForbiddenError, UnauthorizedError)):
        await _shared().authenticate(_signed(_payload(tenant=tenant)))


async def test_audience_and_issuer_are_checked_where_given():
    both = _shared(audience="turnstream", issuer="https://id.example")
    good = _payload(aud="turnstream", iss="https://id.example")
    assert (await both.authenticate(_signed(good))).user == "ann"
    for wrong in ({"aud": "other"}, {"iss": "https://other.example"}):
        with pytest.raises(UnauthorizedError):
            await both.authenticate(_signed({**good, **wrong}))


async def test_keys_from_an_address_rotate(keys):
    old, new = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    keys.add("old", old)
    auth = JwtAuthenticator(
        algorithms=ASYMMETRIC, jwks_url=keys.url, claims=Claims(), refetch_pause_s=0
    )
    assert (await auth.authenticate(_signed(_payload(), old, "RS256", kid="old"))).user == "ann"
    keys.add("new", new)  # the issuer rotates; the edge has not seen this key yet
    assert (await auth.authenticate(_signed(_payload(), new, "ES256", kid="new"))).user == "ann"
    asked = keys.asked
    assert (await auth.authenticate(_signed(_payload(), new, "ES256", kid="new"))).user == "ann"
    assert keys.asked == asked
    with pytest.raises(UnauthorizedError):
        await auth.authenticate(_signed(_payload(), old, "RS256", kid="nobody"))


async def test_a_public_key_is_no_shared_secret(keys):
    """The classic confusion: HS256 with the public key as its secret."""
    private = rsa.generate_private_key(65537, 2048)
    keys.add("one", private)
    auth = JwtAuthenticator(algorithms=ASYMMETRIC, jwks_url=keys.url, claims=Claims())
    head = {"alg": "HS256", "kid": "one"}
    body = b".".join(base64url_encode(json.dumps(part).encode()) for part in (head, _payload()))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    mark = base64url_encode(hmac.digest(public, body, "sha256"))
    forged = (body + b"." + mark).decode()
    with pytest.raises(UnauthorizedError):
        await auth.authenticate(forged)


async def test_an_address_that_does_not_answer_is_no_verdict_on_the_token(keys):
    url = keys.url.replace(str(keys.server.server_port), "1")
    auth = JwtAuthenticator(algorithms=ASYMMETRIC, jwks_url=url, claims=Claims())
    token = _signed(_payload(), rsa.generate_private_key(65537, 2048), "RS256", kid="one")
    with pytest.raises(UnavailableError):
        await auth.authenticate(token)


async def test_the_document_says_whether_a_token_is_needed(settings, edge, open_running):
    strict = settings.model_copy(update={"jwt_secret": SecretStr(SECRET)})
    async with open_running(strict) as guarded, httpx.AsyncClient(timeout=60) as http:
        document = (await http.get(f"{guarded.url}/openapi.json")).json()
        in_dev_mode = (await http.get(f"{edge.url}/openapi.json")).json()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                needed = operation.pop("security", None)
                answer = await http.request(method, f"{guarded.url}{path}")
                assert (answer.status_code == 401) == (needed == [{"token": []}]), path
    scheme = document["components"].pop("securitySchemes")
    assert scheme == {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    assert document == in_dev_mode
