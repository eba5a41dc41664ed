"""Tokens of an issuer: what they open, what is refused and how, and an issuer that turns its keys or is away."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from features.redis import RedisStore
from models.deployment import deploy, topics_of
from models.feed import ModelFeed
from serving.app import create_app
from serving.caller import SCOPES
from serving.errors import IssuerUnusable
from serving.gate import Gate
from serving.jwks import Jwks, keys_of
from serving.keyfile import Key, drawn, rate_of
from serving.settings import Settings
from serving.tokens import LEEWAY, Tokens
from tests.serving import shop
from tests.serving.parts import KEY, NOW, MemoryOutbox, client_of, payment

ISSUER, AUDIENCE = "https://issuer.example/", "headrace-shop"
RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PEM = RSA.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def public(kid: str, key: Any) -> dict[str, Any]:
    """The member of a set for a private key."""
    kind = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    algorithm: Any = next((a for k, a in kind.items() if isinstance(key, k)), OKPAlgorithm)
    return dict(algorithm.to_jwk(key.public_key(), as_dict=True)) | {"kid": kid}


ALL = {"rsa": RSA, "ec": EC, "ed": ED}
ALGORITHM = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}


class Issuer:
    """A small server that gives a set of keys, counts, and can be away."""

    def __init__(self) -> None:
        self.keys = [public(kid, key) for kid, key in ALL.items()]
        self.status, self.fetches = 200, 0
        self.body: bytes | None = None
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Semaphore(0)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetches += 1
                issuer.asked.release()
                issuer.open.wait()
                said = json.dumps({"keys": issuer.keys}).encode() if issuer.body is None else issuer.body
                self.send_response(issuer.status)
                if issuer.status == 302:
                    self.send_header("Location", f"{issuer.url}elsewhere")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                with suppress(ConnectionError):
                    self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.close()


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Asked(NamedTuple):
    """An API that takes tokens of the issuer, and keys of a file."""

    client: httpx.AsyncClient
    issuer: Issuer
    jwks: Jwks
    gate: Gate
    clock: Clock
    secret: str

    async def get(self, token: str, url: str = "/v1/models") -> httpx.Response:
        return await self.client.get(url, headers={"authorization": f"Bearer {token}"})


@pytest.fixture
async def asked(redis_url: str, tmp_path: Path, issuer: Issuer) -> AsyncIterator[Asked]:
    clock = Clock()
    jwks = Jwks(issuer.url, pause=10.0, now=clock)
    secret, digest = drawn()
    file = tmp_path / "keys"
    file.write_text(Key("till", digest, ("read",)).line())
    gate = Gate(file, tokens=Tokens(jwks, ISSUER, AUDIENCE, rate_of("50/day")))
    store = RedisStore(redis_url)
    deployment = await deploy(shop.project, store, topics_of(shop.project))
    feed = ModelFeed(store, deployment, [KEY], allow=[shop.__name__])
    await feed.poll()
    app = create_app(deployment, store, feed, MemoryOutbox(), Settings(), now_ms=lambda: NOW, gate=gate)
    async with client_of(app) as client:
        yield Asked(client, issuer, jwks, gate, clock, secret)
    await store.close()


def claims(**more: Any) -> dict[str, Any]:
    said = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": int(time.time()) + 600,
        "scope": "openid read",
    } | more
    return {name: value for name, value in said.items() if value is not None}


def token(kid: str = "rsa", key: Any = None, algorithm: str = "", **more: Any) -> str:
    made: Any = key or ALL.get(kid, RSA)
    return jwt.encode(claims(**more), made, algorithm or ALGORITHM.get(kid, "RS256"), headers={"kid": kid})


def raw(head: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(head).encode(), json.dumps(body).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def hs256(head: dict[str, Any], secret: bytes) -> str:
    """Signed by hand: PyJWT refuses to make such a token."""
    text = raw(head, claims()).rstrip(".")
    signature = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@pytest.mark.parametrize("kid", ALL)
async def test_each_kind_of_key_signs_tokens(asked: Asked, kid: str) -> None:
    assert (await asked.get(token(kid))).status_code == 200
    assert (await asked.get(asked.secret)).status_code == 200  # keys are good beside tokens


@pytest.mark.parametrize("scope", SCOPES)
async def test_each_scope_opens_what_it_is_for_and_nothing_else(asked: Asked, scope: str) -> None:
    label = {"payment": "p1", "fraud": True, "at": "2026-01-01T00:00:00Z"}
    requests: list[tuple[str, str, Any, str]] = [
        ("POST", "/v1/models/fraud/predict", payment(1), "predict"),
        ("GET", "/v1/models", None, "read"),
        ("POST", "/v1/events/payments", payment(1), "ingest"),
        ("POST", "/v1/labels/chargebacks", label, "label"),
        ("POST", "/nowhere", None, "admin"),
    ]
    for said in (
        {"scope": f"openid {scope} x"},
        {"scope": None, "scp": [scope, 7]},
        {"scope": None, "scp": scope},
    ):
        headers = {"authorization": f"Bearer {token(**said)}"}
        for method, url, body, needs in requests:
            answer = await asked.client.request(method, url, json=body, headers=headers)
            assert (answer.status_code != 403) == (scope in (needs, "admin")), (said, url)
            assert answer.status_code != 401
    missing = await asked.get(token(scope="openid"))
    assert missing.status_code == 403
    assert 'error="insufficient_scope", scope="read"' in missing.headers["www-authenticate"]
    assert "token of alice has not the scope read" in missing.json()["detail"]


@pytest.mark.parametrize("scope", [None, 7, {"read": True}, "READ", "read,admin", ["read admin"]])
async def test_what_is_no_scope_opens_nothing(asked: Asked, scope: Any) -> None:
    assert (await asked.get(token(scope=scope))).status_code == 403


PAST, LATER = int(time.time()) - 3600, int(time.time()) + 3600
HEAD = {"alg": "RS256", "kid": "rsa"}
REFUSED: dict[str, tuple[str, str]] = {
    "no signature": (raw({"alg": "none", "kid": "rsa"}, claims()), "another way"),
    "no signature, in capitals": (raw({"alg": "NONE", "kid": "rsa"}, claims()), "another way"),
    "signature left out": (raw(HEAD, claims()), "signature"),
    "HS256 with the public key in PEM": (hs256({"alg": "HS256", "kid": "rsa"}, PEM), "another way"),
    "HS256 with the public key as it is served": (
        hs256({"alg": "HS256", "kid": "rsa"}, json.dumps(public("rsa", RSA)).encode()),
        "another way",
    ),
    "HS256 that says RS256": (hs256(HEAD, PEM), "signature"),
    "PS256 with the right key": (token(algorithm="PS256"), "another way"),
    "RS512 with the right key": (token(algorithm="RS512"), "another way"),
    "ES256 for the id of the RSA key": (token("rsa", EC, "ES256"), "another way"),
    "a stranger's key": (token("rsa", OTHER), "signature"),
    "the key of the token itself": (
        jwt.encode(claims(), OTHER, "RS256", headers={"kid": "rsa", "jwk": public("rsa", OTHER)}),
        "signature",
    ),
    "a file as the id": (token("../../dev/null"), "no such key"),
    "an unknown id": (token("new", OTHER), "no such key"),
    "no id": (jwt.encode(claims(), RSA, "RS256"), "names its key"),
    "an id that is no text": (raw(HEAD | {"kid": 7}, claims()), "names its key"),
    "expired": (token(exp=int(time.time() - LEEWAY) - 5), "expired"),
    "never ends": (token(exp=None), "lacks"),
    "ends at a text": (token(exp="soon"), "not usable"),
    "not yet good": (token(nbf=LATER), "not good yet"),
    "of the future": (token(iat=LATER), "not good yet"),
    "of another issuer": (token(iss="https://issuer.example/evil"), "another issuer"),
    "of a part of the issuer": (token(iss="https://issuer"), "another issuer"),
    "of a list with the issuer": (raw(HEAD, claims(iss=[ISSUER])), "signature"),
    "of no issuer": (token(iss=None), "lacks"),
    "for another audience": (token(aud="headrace"), "somebody else"),
    "for no audience": (token(aud=None), "lacks"),
    "for no audience of a list": (token(aud=["a", "headrace-shop2"]), "somebody else"),
    "of nobody": (token(sub=None), "lacks"),
    "a critical extension": (
        jwt.encode(claims(), RSA, "RS256", headers={"kid": "rsa", "crit": ["x"], "x": 1}),
        "names its key",
    ),
    "too long": (token(sub="a" * 9_000), "names its key"),
    "two parts": (token().rpartition(".")[0], "names its key"),
    "four parts": (token() + ".x", ""),
    "dots": ("..", "names its key"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_refused(asked: Asked, case: str) -> None:
    shown, why = REFUSED[case]
    answer = await asked.get(shown)

    assert answer.status_code == 401, answer.text
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert answer.json()["type"] == "urn:headrace:problem:unauthorized"
    assert why in answer.json()["detail"]


async def test_a_token_that_was_changed_anywhere_is_refused(asked: Asked) -> None:
    good = token("ec")
    draw = random.Random(7)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.= \x7f"
    shortest = len(good) - 1  # of the last letter of a signature only some bits count
    for _ in range(400):
        place = draw.randrange(shortest)
        changed = good[:place] + draw.choice(letters.replace(good[place], "")) + good[place + 1 :]
        assert (await asked.get(changed)).status_code == 401, changed
    for end in range(0, len(good) - 1, 7):
        assert (await asked.get(good[:end])).status_code == 401


async def test_clocks_may_differ_a_little(asked: Asked) -> None:
    now = time.time()
    assert (await asked.get(token(exp=int(now - LEEWAY / 2), iat=now + LEEWAY / 2))).status_code == 200
    assert (await asked.get(token(nbf=now + LEEWAY / 2, aud=["x", AUDIENCE]))).status_code == 200


async def test_a_token_is_a_bearer_and_nothing_else(asked: Asked) -> None:
    for headers in (
        {"x-api-key": token()},
        {"authorization": f"Basic {token()}"},
        {"authorization": token()},
    ):
        assert (await asked.client.get("/v1/models", headers=headers)).status_code == 401


async def test_each_subject_has_a_rate_of_its_own(asked: Asked) -> None:
    answers = [(await asked.get(token(sub=who))).status_code for who in ["bob"] * 51 + ["carol"]]
    assert answers == [200] * 50 + [429, 200]
    assert (await asked.get(asked.secret)).status_code == 200


async def test_a_new_key_is_fetched_when_a_token_names_it_and_an_old_one_forgotten(asked: Asked) -> None:
    assert (await asked.get(token())).status_code == 200
    asked.issuer.keys = [public("new", OTHER)]
    assert (await asked.get(token())).status_code == 200  # until somebody looks again
    asked.clock.now += 10.0

    assert (await asked.get(token("new", OTHER))).status_code == 200
    assert (await asked.get(token())).status_code == 401
    assert asked.issuer.fetches == 2


async def test_a_flood_of_unknown_keys_is_no_flood_of_fetches(asked: Asked) -> None:
    assert (await asked.get(token())).status_code == 200
    asked.clock.now += 10.0
    made_up = [token(f"x{k}", OTHER) for k in range(300)]

    answers = await asyncio.gather(*map(asked.get, made_up))

    assert {answer.status_code for answer in answers} == {401}
    assert asked.issuer.fetches == 2
    asked.clock.now += 9.9
    assert (await asked.get(made_up[0])).status_code == 401
    assert asked.issuer.fetches == 2
    asked.clock.now += 0.2
    assert (await asked.get(made_up[0])).status_code == 401
    assert asked.issuer.fetches == 3


async def test_while_keys_are_fetched_others_are_answered(asked: Asked) -> None:
    assert (await asked.get(token())).status_code == 200
    asked.clock.now += 10.0
    asked.issuer.open.clear()
    asked.issuer.asked = threading.Semaphore(0)
    waiting = asyncio.create_task(asked.get(token("new", OTHER)))
    await asyncio.to_thread(asked.issuer.asked.acquire)

    assert (await asked.get(token("ec"))).status_code == 200
    assert not waiting.done()
    asked.issuer.open.set()
    assert (await waiting).status_code == 401


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, None),
        (302, None),
        (200, b"<html>"),
        (200, b'{"keys": []}'),
        (200, b"[" * 10_000),
        (200, b"x" * (2 << 20)),
    ],
)
async def test_an_issuer_that_is_away_leaves_the_keys_as_they_were(
    asked: Asked, status: int, body: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await asked.get(token())).status_code == 200
    asked.issuer.status, asked.issuer.body = status, body

    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            asked.clock.now += 10.0
            assert (await asked.get(token("new", OTHER))).status_code == 401

    assert asked.issuer.fetches == 3
    assert (await asked.get(token())).status_code == 200
    assert caplog.text.count("the keys of the issuer stay as they were") == 1


async def test_without_keys_ever_tokens_are_answered_503_and_api_keys_as_always(asked: Asked) -> None:
    asked.issuer.status = 500
    answer = await asked.get(token())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["type"] == "urn:headrace:problem:issuer-unavailable"
    assert (await asked.get(token())).status_code == 503
    assert asked.issuer.fetches == 1
    assert (await asked.get("..")).status_code == 401
    assert (await asked.get(asked.secret)).status_code == 200

    asked.issuer.status = 200
    asked.clock.now += 10.0
    assert (await asked.get(token())).status_code == 200


async def test_a_running_api_follows_the_issuer(issuer: Issuer) -> None:
    jwks = Jwks(issuer.url, every=0.001, pause=1e9)
    following = asyncio.create_task(Gate(None, tokens=Tokens(jwks, ISSUER, AUDIENCE)).follow())
    while await jwks.key("rsa") is None:
        assert not following.done()
        await asyncio.sleep(0)
    issuer.keys = [public("new", OTHER)]
    while await jwks.key("new") is None:
        assert not following.done()
        await asyncio.sleep(0)
    assert await jwks.key("rsa") is None
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_a_file_of_keys_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [public("rsa", RSA)]}))
    jwks = Jwks(str(file), pause=0.0)
    assert await jwks.key("rsa") is not None
    file.write_text(json.dumps({"keys": [public("ec", EC)]}))
    assert await jwks.key("ec") is not None
    assert await jwks.key("rsa") is None


def test_only_keys_that_can_be_trusted_are_taken() -> None:
    private = dict(RSAAlgorithm.to_jwk(RSA, as_dict=True)) | {"kid": "private"}
    secret = {"kty": "oct", "k": base64.urlsafe_b64encode(b"k" * 32).decode(), "kid": "oct"}
    curve = ec.generate_private_key(ec.SECP384R1())
    good = public("good", RSA)
    listed: list[Any] = [
        *(
            private,
            secret,
            secret | {"alg": "RS256", "kid": "oct2"},
            public("weak", WEAK),
            public("p384", curve),
        ),
        *(good | {"alg": "RS512", "kid": "rs512"}, good | {"alg": "PS256", "kid": "ps"}),
        *(good | {"alg": "HS256", "kid": "hs"}, good | {"use": "enc", "kid": "enc"}, good | {"kid": 7}),
        *({"kty": "RSA", "kid": "empty"}, {"kid": "bare"}, "text", None, good, public("good", OTHER)),
    ]

    found = keys_of(json.dumps({"keys": listed}).encode(), "set")

    assert list(found) == ["good"]
    assert found["good"].key.public_numbers() == RSA.public_key().public_numbers()  # of two, the first


@pytest.mark.parametrize(
    "where",
    ["http://issuer.example/jwks", "ftp://127.0.0.1/x", "file:///etc/passwd", "https://", "nowhere.json"],
)
def test_keys_of_an_address_that_cannot_be_trusted_are_refused(where: str) -> None:
    with pytest.raises(IssuerUnusable) as caught:
        Jwks(where)
    assert caught.value.why
    assert "--jwks" in caught.value.fix
