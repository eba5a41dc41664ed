"""API keys: what each scope opens, what is refused and how, and a file that changes while the API runs."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import generate_latest
from starlette.routing import Route

from features.redis import RedisStore
from models.deployment import deploy, topics_of
from models.feed import ModelFeed
from serving.app import create_app
from serving.caller import SCOPES
from serving.errors import KeysUnusable
from serving.gate import OPEN, Gate
from serving.keyfile import Key, by_digest, drawn, rate_of, time_of
from serving.metrics import Metrics
from serving.settings import Settings
from tests.serving import shop
from tests.serving.parts import KEY, NOW, MemoryOutbox, client_of, payment

LABEL = {"payment": "p1", "fraud": True, "at": "2026-01-01T00:00:00Z"}
PREDICT = ("POST", "/v1/models/fraud/predict", payment(1))

# What each request needs, written down by hand; the scope of `ingest=true` comes on top of that of the prediction.
NEEDS: list[tuple[str, str, Any, set[str]]] = [
    (*PREDICT, {"predict"}),
    ("POST", "/v1/models/fraud/predict?ingest=true", payment(1), {"predict", "ingest"}),
    ("POST", "/v1/models/nothing/predict", payment(1), {"predict"}),
    ("POST", "/v2/models/loss/infer", {"inputs": []}, {"predict"}),
    ("POST", "/v1/events/payments", payment(1), {"ingest"}),
    ("POST", "/v1/events/chargebacks", LABEL, {"ingest", "label"}),  # labels by another way
    ("POST", "/v1/labels/chargebacks", LABEL, {"label"}),
    ("GET", "/v1/features/Card/c1", None, {"read"}),
    ("GET", "/v1/models", None, {"read"}),
    ("GET", "/v1/models/fraud", None, {"read"}),
    ("GET", "/v1/status", None, {"read"}),
    ("GET", "/v2", None, {"read"}),
    ("GET", "/v2/models/fraud", None, {"read"}),
    ("GET", "/v2/models/fraud/ready", None, {"read"}),
    ("GET", "/metrics", None, {"read"}),
    ("GET", "/docs", None, {"read"}),
    ("GET", "/openapi.json", None, {"read"}),
    ("GET", "/nowhere", None, {"read"}),
    ("POST", "/nowhere", {}, {"admin"}),
    ("DELETE", "/v1/models/fraud", None, {"admin"}),
    ("PUT", "/livez", None, {"admin"}),
]


class Locked(NamedTuple):
    """An API that asks for keys."""

    app: FastAPI
    client: httpx.AsyncClient
    gate: Gate
    file: Path
    secrets: dict[str, str]
    metrics: Metrics

    async def ask(self, method: str, url: str, body: Any = None, secret: str | None = None) -> httpx.Response:
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        return await self.client.request(method, url, json=body, headers=headers)


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


def written(file: Path, *keys: Key) -> None:
    file.write_text("".join(f"{key.line()}\n" for key in keys))


@pytest.fixture
async def locked(redis_url: str, tmp_path: Path) -> AsyncIterator[Locked]:
    """One key for each scope, called as the scope."""
    made = {scope: drawn() for scope in SCOPES}
    file = tmp_path / "keys"
    written(file, *(Key(scope, digest, (scope,)) for scope, (_, digest) in made.items()))
    gate, metrics = Gate(file, CLOCK), Metrics()
    store = RedisStore(redis_url)
    deployment = await deploy(shop.project, store, topics_of(shop.project))
    feed = ModelFeed(store, deployment, [KEY], allow=[shop.__name__])
    await feed.poll()
    app = create_app(
        deployment, store, feed, MemoryOutbox(), Settings(), metrics=metrics, now_ms=lambda: NOW, gate=gate
    )
    secrets = {scope: secret for scope, (secret, _) in made.items()}
    async with client_of(app) as client:
        yield Locked(app, client, gate, file, secrets, metrics)
    await store.close()


async def test_each_scope_opens_what_it_is_for_and_nothing_else(locked: Locked) -> None:
    for method, url, body, needs in NEEDS:
        for scope, secret in locked.secrets.items():
            answer = await locked.ask(method, url, body, secret)
            opened = scope == "admin" or needs <= {scope}
            assert (answer.status_code != 403) == opened, (method, url, scope, answer.text)
            assert answer.status_code != 401
            if not opened:
                missing = answer.headers["www-authenticate"]
                assert missing.startswith('Bearer realm="headrace", error="insufficient_scope", scope="')
                assert re.search(r'scope="(\w+)"', missing)[1] in needs - {scope}  # type: ignore[index]  # it is there


async def test_a_key_with_both_scopes_may_do_what_needs_both(locked: Locked) -> None:
    secret, digest = drawn()
    written(locked.file, Key("both", digest, ("predict", "ingest")))
    locked.gate.look()
    answer = await locked.ask("POST", "/v1/models/fraud/predict?ingest=true", payment(1), secret)
    assert answer.status_code == 200


async def test_without_a_key_only_probes_and_the_empty_page_are_open(locked: Locked) -> None:
    for method, url, body, _ in NEEDS:
        answer = await locked.ask(method, url, body)
        assert answer.status_code == 401, (method, url)
        assert answer.headers["www-authenticate"] == 'Bearer realm="headrace"'
    for url in (*OPEN, "/static/console.js"):
        assert (await locked.ask("GET", url)).status_code == 200, url


def plain(path: str) -> str:
    return re.sub(r"\{\w+\}", "x", path)


async def test_no_route_is_open_that_is_not_listed(locked: Locked) -> None:
    asked = 0
    for route in _routes(locked.app):
        for method in route.methods or ():
            answer = await locked.ask(method, plain(route.path))
            opened = method == "GET" and (route.path in OPEN or route.path.startswith("/static/"))
            assert (answer.status_code != 401) == opened, (method, route.path)
            asked += 1
    assert asked > 20


def _routes(app: FastAPI) -> list[Route]:
    found: list[Route] = []
    pending: list[Any] = list(app.router.routes)
    while pending:
        one = pending.pop()
        if isinstance(one, Route):
            found.append(one)
        pending.extend(getattr(getattr(one, "original_router", None), "routes", ()))
    return found


@pytest.mark.parametrize(
    "headers",
    [
        lambda key: {"Authorization": f"Bearer {key}"},
        lambda key: {"authorization": f"bearer  {key}"},
        lambda key: {"X-API-Key": key},
        lambda key: {"X-API-Key": key, "Authorization": "Basic eDp5"},
    ],
)
async def test_a_key_is_shown_in_either_header(
    locked: Locked, headers: Callable[[str], dict[str, str]]
) -> None:
    secret = locked.secrets["read"]
    assert (await locked.client.get("/v1/models", headers=headers(secret))).status_code == 200
    refused = await locked.client.get("/v1/models", headers=headers(secret[:-1]))
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:headrace:problem:unauthorized"


@pytest.mark.parametrize(
    "shown",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic eDp5",
        "Token {key}",
        "{key}",
        "Bearer {key} x",
        "Bearer {digest}",
    ],
)
async def test_what_is_no_key_is_refused(locked: Locked, shown: str) -> None:
    secret = locked.secrets["admin"]
    text = shown.format(key=secret, digest=sha256(secret.encode()).hexdigest())
    assert (await locked.client.get("/v1/models", headers={"Authorization": text})).status_code == 401


async def test_under_v2_a_refusal_is_an_error_of_its_protocol(locked: Locked) -> None:
    answer = await locked.ask("GET", "/v2")
    assert (answer.status_code, list(answer.json())) == (401, ["error"])


async def test_an_expired_key_is_refused_from_its_moment_on(
    locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, digest = drawn()
    written(locked.file, Key("short", digest, ("read",), expires=CLOCK.now + 10))
    locked.gate.look()
    monkeypatch.setattr(CLOCK, "now", CLOCK.now + 9.9)
    assert (await locked.ask("GET", "/v1/models", None, secret)).status_code == 200
    monkeypatch.setattr(CLOCK, "now", CLOCK.now + 0.1)
    answer = await locked.ask("GET", "/v1/models", None, secret)
    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_two_keys_are_good_at_once_until_the_old_one_is_gone(locked: Locked) -> None:
    (old, old_digest), (new, new_digest) = drawn(), drawn()
    first, second = Key("till-1", old_digest, ("read",)), Key("till-2", new_digest, ("read",))
    for held, good in (([first], [True, False]), ([first, second], [True, True]), ([second], [False, True])):
        written(locked.file, *held)
        locked.gate.look()
        answers = [await locked.ask("GET", "/v1/models", None, secret) for secret in (old, new)]
        assert [answer.status_code == 200 for answer in answers] == good


async def test_a_running_api_follows_its_file(locked: Locked) -> None:
    secret, digest = drawn()
    following = asyncio.create_task(locked.gate.follow(0.001))
    written(locked.file, Key("new", digest, ("read",)))
    while (await locked.ask("GET", "/v1/models", None, secret)).status_code != 200:
        assert not following.done()
        await asyncio.sleep(0)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_the_api_follows_its_file_while_it_runs(
    locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def follow(_: Gate) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Gate, "follow", follow)
    async with locked.app.router.lifespan_context(locked.app):
        await asyncio.sleep(0)
        assert asked.is_set()


@pytest.mark.parametrize("content", [b"hr_secret", b"\xff", b"x sha256:00 read", None])
async def test_a_file_that_cannot_be_used_changes_nothing_and_is_told_once(
    locked: Locked, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    locked.file.unlink()
    if content is not None:
        locked.file.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        locked.gate.look()
        locked.gate.look()
    assert len(caplog.records) == 1
    assert "stay as they were" in caplog.text
    assert "hr_secret" not in caplog.text
    assert (await locked.ask("GET", "/v1/models", None, locked.secrets["read"])).status_code == 200


async def test_a_key_has_the_requests_of_its_rate_and_others_have_theirs(locked: Locked) -> None:
    (bounded, digest), (free, other) = drawn(), drawn()
    written(locked.file, Key("few", digest, ("read",), rate_of("3/day")), Key("free", other, ("read",)))
    locked.gate.look()
    asked = [await locked.ask("GET", "/v1/models", None, bounded) for _ in range(5)]
    assert [answer.status_code for answer in asked] == [200, 200, 200, 429, 429]
    assert asked[3].json()["type"] == "urn:headrace:problem:too-often"
    assert 86_000 < int(asked[3].headers["retry-after"]) <= 86_400
    assert (await locked.ask("GET", "/v1/models", None, free)).status_code == 200


async def test_requests_without_a_key_do_not_take_the_place_of_others(locked: Locked) -> None:
    """The body of a refused request is not read, however long its sender takes."""
    reading = asyncio.Event()

    async def receive() -> Any:
        reading.set()
        await asyncio.Event().wait()

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/models/fraud/predict",
        "headers": [],
        "query_string": b"",
    }
    await locked.app(scope, receive, send)
    assert sent[0]["status"] == 401
    assert not reading.is_set()


async def test_secrets_are_in_no_log_answer_metric_or_repr(
    locked: Locked, caplog: pytest.LogCaptureFixture
) -> None:
    said = []
    with caplog.at_level(logging.DEBUG):
        for method, url, body, _ in NEEDS:
            for secret in (*locked.secrets.values(), "hr_unknown-secret"):
                answer = await locked.ask(method, url, body, secret)
                said.append(answer.text + str(answer.headers))
    said.append(caplog.text + generate_latest(locked.metrics.registry).decode())
    said.append(repr(locked.gate) + repr(list(vars(locked.gate).values())))
    digests = [sha256(secret.encode()) for secret in locked.secrets.values()]
    # the map of the gate has digests as its keys, which open nothing; secrets are nowhere
    hidden = [*locked.secrets.values(), "hr_unknown-secret"]
    assert [secret for secret in hidden for text in said if secret in text] == []
    assert [digest.hexdigest() for digest in digests for text in said if digest.hexdigest() in text] == []


# -- the file ------------------------------------------------------------------------------------------------

DIGEST = "sha256:" + "0a" * 32


def test_a_line_says_all_of_a_key() -> None:
    line = f"till-7 {DIGEST} predict,ingest rate=200/second expires=2027-06-01T00:00:00Z"
    (key,) = by_digest(f"# a comment\n\n{line}\n", "keys").values()
    assert (key.id, key.digest, key.scopes) == ("till-7", b"\x0a" * 32, ("predict", "ingest"))
    assert key.rate is not None
    assert (key.rate.amount, key.rate.get_expiry()) == (200, 1)
    assert key.expires == time_of("2027-06-01T02:00:00+02:00") == 1_811_808_000
    assert key.line() == line
    assert "digest" not in repr(key)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("hr_notasecret", "fewer than three"),
        (f"a/b {DIGEST} read", "an id has"),
        (f"{'a' * 65} {DIGEST} read", "an id has"),
        ("a hr_notasecret read", "second word"),
        (f"a {DIGEST.upper()} read", "second word"),
        (f"a {DIGEST}00 read", "second word"),
        (f"a {DIGEST} reed", "scopes are"),
        (f"a {DIGEST} read,", "scopes are"),
        (f"a {DIGEST} read rate=0/second", "a rate is"),
        (f"a {DIGEST} read rate=5", "a rate is"),
        (f"a {DIGEST} read rate=1/day rate=2/day", "at most once"),
        (f"a {DIGEST} read hr_notasecret", "after the scopes"),
        (f"a {DIGEST} read expires=2027-06-01", "a moment is"),
        (f"a {DIGEST} read expires=soon", "a moment is"),
        (f"other {DIGEST} read\na {DIGEST} read", "earlier line"),
        (f"a sha256:{'0b' * 32} read\na {DIGEST} read", "earlier line"),
    ],
)
def test_a_line_that_is_none_is_named_and_never_shown(line: str, why: str) -> None:
    with pytest.raises(KeysUnusable, match=why) as refused:
        by_digest(f"# keys\n{line}\n", "keys")
    assert refused.value.where == f"keys:{2 + line.count(chr(10))}"
    assert "notasecret" not in str(refused.value)


def test_secrets_have_256_bits_and_never_repeat() -> None:
    found = {drawn()[0] for _ in range(1000)}
    assert len(found) == 1000
    assert {len(secret) for secret in found} == {len("hr_") + 43}
