"""Tokens to principals: a shared secret, and keys from a real JWKS address that rotate."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import random
import secrets
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

from turnstream.schemas.errors import (
    ConfigurationError,
    ForbiddenError,
    UnauthorizedError,
    UnavailableError,
)
from turnstream.streams.app.settings import Settings
from turnstream.streams.edge.server.auth import (
    ASYMMETRIC,
    SYMMETRIC,
    Claims,
    JwtAuthenticator,
    check_secret,
)
from turnstream.streams.edge.server.process import authenticator_of

SECRET = "s" * 32
CLAIMS = {"sub": "ann", "tenant": "acme", "roles": ["operator"]}


def _payload(**changes):
    return {**CLAIMS, "exp": time.time() + 3600, **changes}


class Keys:
    """A JWKS address with the keys that it was given."""

    def __init__(self):
        self.keys, self.asked = {}, 0
        self.body = None
        """Sent instead of the keys."""
        self.answers = threading.Event()
        self.answers.set()
        holder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                holder.asked += 1
                holder.answers.wait(60)
                keys = json.dumps({"keys": list(holder.keys.values())}).encode()
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):  # it was not waited for
                    self.wfile.write(keys if holder.body is None else holder.body)

            def log_message(self, *_):
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def add(self, kid, private):
        algorithm = RSAAlgorithm if isinstance(private, rsa.RSAPrivateKey) else ECAlgorithm
        jwk = algorithm.to_jwk(private.public_key(), as_dict=True)
        self.keys[kid] = {**jwk, "kid": kid, "use": "sig"}

    def stop(self):
        self.answers.set()
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
    ends = int(time.time()) + 3600
    principal = await _shared().authenticate(_signed(_payload(exp=ends)))
    assert (principal.tenant, principal.user) == ("acme", "ann")
    assert principal.roles == {"operator"}
    assert principal.expires_at == ends


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


def _from(keys, **changes):
    return JwtAuthenticator(algorithms=ASYMMETRIC, jwks_url=keys.url, claims=Claims(), **changes)


RSA = rsa.generate_private_key(65537, 2048)
RSA_2 = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


async def test_a_key_server_that_hangs_holds_nobody_up_whose_key_is_cached(keys):
    keys.add("one", RSA)
    auth = _from(keys, refetch_pause_s=0.2)
    token = _signed(_payload(), RSA, "RS256", kid="one")
    await auth.authenticate(token)
    keys.answers.clear()
    asked = keys.asked
    keys_of_auth = auth._keys
    now = time.monotonic() + 1
    keys_of_auth.clock = lambda: now
    strangers = [
        asyncio.create_task(auth.authenticate(_signed(_payload(), RSA, "RS256", kid=f"x{number}")))
        for number in range(8)
    ]
    await asyncio.sleep(0)
    for age_s in (0, 250, 400, 3000):  # fresh, to be refreshed, past their time, and far past it
        keys_of_auth.clock = lambda age_s=age_s: now + age_s
        async with asyncio.timeout(30):
            assert (await auth.authenticate(token)).user == "ann"
        assert not any(task.done() for task in strangers)
    keys_of_auth.clock = lambda: now
    keys.body = b"<html>Bad gateway</html>"
    keys.answers.set()
    for answer in await asyncio.gather(*strangers, return_exceptions=True):
        assert isinstance(answer, UnavailableError)
    assert keys.asked == asked + 1  # one fetch for all of them
    with pytest.raises(UnavailableError):  # and none at once after one that failed
        await auth.authenticate(_signed(_payload(), RSA, "RS256", kid="y"))
    assert keys.asked == asked + 1
    keys_of_auth.clock = lambda: now + 4000
    with pytest.raises(UnavailableError):  # a key that was withdrawn is not taken for ever
        await auth.authenticate(token)


async def test_keys_are_fetched_again_before_their_time_is_over(keys):
    keys.add("one", RSA)
    auth = _from(keys)
    token = _signed(_payload(), RSA, "RS256", kid="one")
    await auth.authenticate(token)
    keys.keys.clear()
    keys.add("two", RSA_2)
    now = time.monotonic()
    auth._keys.clock = lambda: now + 301
    with pytest.raises(UnauthorizedError):
        await auth.authenticate(token)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Sign in</html>",
        b"",
        b"\xff\xfe{}",
        b"[]",
        b"7",
        b"null",
        b'{"keys": null}',
        b'{"keys": []}',
        b'{"keys": {"a": 1}}',
        b'{"keys": [7, null, {"kty": "RSA"}, {"kid": 7, "kty": "RSA"}]}',
        b'{"keys": [{"kid": "one", "kty": "oct", "k": "c2VjcmV0"}]}',
        b'{"keys": [{"kid": "one", "kty": "RSA", "n": "!", "e": "AQAB"}]}',
        b'{"keys": [{"kid": "one", "kty": "RSA"}]}',
        b'{"keys": [{"kid": "one", "kty": "RSA", "n": 7, "e": []}]}',
        b"[" * 100_000,
        b'{"keys":' * 20_000,
        b" " * (1 << 21),
    ],
)
async def test_a_key_server_that_sends_no_keys_is_no_verdict_on_the_token(keys, body):
    token = _signed(_payload(), RSA, "RS256", kid="one")
    keys.body = body
    with pytest.raises(UnavailableError):
        await _from(keys).authenticate(token)
    keys.body = None
    keys.add("one", RSA)
    auth = _from(keys, refetch_pause_s=0)
    await auth.authenticate(token)
    keys.body = body  # and takes nothing from those that are known
    with contextlib.suppress(UnavailableError, UnauthorizedError):
        await auth.authenticate(_signed(_payload(), RSA, "RS256", kid="two"))
    if not body.startswith(b'{"keys": [{"kid": "one", "kty": "RSA"'):
        await auth.authenticate(token)


def _forged(head, payload, signature=b"x"):
    parts = [json.dumps(head).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


async def test_a_token_that_names_a_key_of_another_kind_is_a_401(keys):
    keys.add("rsa", RSA)
    keys.add("ec", EC)
    auth = _from(keys)
    garbage = (b"x", b"", b"x" * 64, b"x" * 256)
    for algorithm in (*ASYMMETRIC, "HS256", "none", "", "ES512", "PS512"):
        for kid in ("rsa", "ec"):
            for signature in garbage:
                head = {"alg": algorithm, "kid": kid}
                with pytest.raises(UnauthorizedError):
                    await auth.authenticate(_forged(head, _payload(), signature))
    for algorithm in ("RS256", "RS512", "PS256"):
        await auth.authenticate(_signed(_payload(), RSA, algorithm, kid="rsa"))
    await auth.authenticate(_signed(_payload(), EC, "ES256", kid="ec"))


VALUES = [
    None,
    True,
    -1,
    0,
    1e308,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\x00",
    [],
    ["operator", None, 7, [1]],
    {},
    {"a": []},
    "a" * 10_000,
    [[[]]] * 1000,
    time.time() + 86_400,
]


async def test_whatever_a_token_holds_it_is_a_principal_or_a_401_or_a_403(keys):
    """Claims and heads of any type, signed and not, and tokens cut and bent anywhere."""
    keys.add("rsa", RSA)
    drawn = random.Random(20261201)
    auths = [(_shared(), SECRET, "HS256", None), (_from(keys), RSA, "RS256", "rsa")]
    tried = let_in = 0
    for auth, key, algorithm, kid in auths:
        named = {} if kid is None else {"kid": kid}
        good = _signed(_payload(), key, algorithm, **named)
        tokens = [good[:cut] for cut in range(0, len(good), 7)]
        for _ in range(300):
            bent = list(good)
            for _ in range(drawn.randint(1, 3)):
                bent[drawn.randrange(len(bent))] = drawn.choice("aZ0-_.=+/\x00\xffé\ud800 ")
            tokens.append("".join(bent))
        names = ("exp", "sub", "tenant", "roles", "nbf", "iat", "aud", "iss", "jti", "other")
        for name in names:
            for value in VALUES:
                with contextlib.suppress(Exception):  # what the library does not sign
                    tokens.append(_signed(_payload(**{name: value}), key, algorithm, **named))
        for name in ("alg", "kid", "typ", "crit", "b64", "zip", "jwk", "jku", "x5c"):
            for value in VALUES:
                head = {"alg": algorithm, **named, name: value}
                with contextlib.suppress(ValueError):
                    tokens.append(_forged(head, _payload()))
        for body in (b"", b"[]", b"7", b"{", b"\xff", b"[" * 50_000, b'{"exp":' * 20_000):
            part = base64.urlsafe_b64encode(body).rstrip(b"=").decode()
            tokens += [f"{part}.{part}.{part}", f"{good.split('.')[0]}.{part}.x"]
        tokens += ["." * 65_000, ".", "..", "...", " ", "é" * 100, "a" * 65_000]
        for token in tokens:
            tried += 1
            try:
                principal = await auth.authenticate(token)
            except (UnauthorizedError, ForbiddenError):
                continue
            let_in += 1
            assert principal.tenant in {"acme", "x"}
            assert principal.user
            assert all(isinstance(role, str) for role in principal.roles)
    assert tried > 1000
    assert 0 < let_in < tried / 4


@pytest.mark.parametrize(
    "secret",
    [
        "a" * 32,
        "ab" * 20,
        "secretsecretsecretsecretsecretsecret",
        "0123456789" * 4,
        "x" * 31,
        "a-string-secret-at-least-256-bits-long",
        "1" * 31 + "2",
        "changemechangemechangemechangeme",
    ],
)
def test_a_secret_that_can_be_guessed_is_refused(secret):
    with pytest.raises(ConfigurationError, match="jwt_secret"):
        check_secret(secret)


def test_a_random_secret_is_taken():
    for _ in range(500):
        check_secret(secrets.token_hex(16))
        check_secret(secrets.token_urlsafe(32))
    check_secret("correct horse battery staple and more")


async def test_the_clock_may_be_off_by_a_leeway():
    late = _signed(_payload(exp=time.time() - 30))
    with pytest.raises(UnauthorizedError):
        await _shared().authenticate(late)
    principal = await _shared(leeway_s=60.0).authenticate(late)
    assert not principal.expired
    set_up = Settings(_env_file=None, jwt_secret=SecretStr(secrets.token_hex(32)), jwt_leeway_s=60)
    assert authenticator_of(set_up).claims.leeway_s == 60


async def test_the_document_says_whether_a_token_is_needed(settings, edge, open_running):
    strict = settings.model_copy(update={"jwt_secret": SecretStr(secrets.token_hex(32))})
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
