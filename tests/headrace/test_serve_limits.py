"""The limits of the API, and what it does without Redis, as `headrace serve` is told by flags or variables."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from features.embedded import EmbeddedRedis
from headrace.demo.feeding import payment
from headrace.loading import load
from headrace.settings import Settings
from models.deployment import topics_of
from serving.settings import Settings as Limits
from streams.embedded import EmbeddedKafka
from tests.headrace.conftest import PAYMENTS, START, Cli, headrace

PREDICT = "v1/models/fraud/predict"
ONE = payment("p1", "c1", "t1", 12.5, START)
LOW = {"max-body": "400", "max-batch": "2", "max-concurrency": "1"}


class Answered(NamedTuple):
    """What the API answered."""

    status: int
    body: Any


def asked(url: str, body: bytes) -> Answered:
    request = urllib.request.Request(f"{url}{PREDICT}", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return Answered(answer.status, json.loads(answer.read()))
    except urllib.error.HTTPError as error:
        return Answered(error.code, json.loads(error.read()))


@contextmanager
def served(kafka: str, redis: str, *flags: str, **variables: str) -> Iterator[str]:
    """The URL of a `headrace serve` with these flags and variables."""
    words = ("serve", PAYMENTS, "--kafka", kafka, "--redis", redis, "--port", "0", *flags)
    api = headrace(*words, env={**os.environ, **variables})
    try:
        assert api.stderr is not None
        said = api.stderr.readline()
        assert "live page" in said, said + api.communicate()[1]
        yield said.split()[-1]
    finally:
        api.terminate()
        api.communicate()


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    with EmbeddedKafka.start(topics_of(load(PAYMENTS).project)) as broker:
        yield broker.bootstrap


@pytest.mark.parametrize("form", ["flags", "variables"])
def test_the_limits_are_those_that_were_given(kafka: str, form: str) -> None:
    flags = [word for name, value in LOW.items() for word in (f"--{name}", value)]
    variables = {f"HEADRACE_{name.upper().replace('-', '_')}": value for name, value in LOW.items()}
    given, around = (flags, {}) if form == "flags" else ([], variables)
    with EmbeddedRedis.start() as redis, served(kafka, redis.url, *given, **around) as url:
        assert asked(url, ONE).status == 200
        assert asked(url, b" " * (400 - len(ONE)) + ONE).status == 200
        assert asked(url, b" " * (401 - len(ONE)) + ONE).status == 413
        assert asked(url, b"[" + b",".join([ONE] * 2) + b"]").status == 200
        assert asked(url, b"[" + b",".join([ONE] * 3) + b"]").status == 422
        with in_hand(url) as waiting:
            busy = asked(url, ONE)
            assert busy.status == 503
            assert "urn:headrace:problem:busy" in busy.body["type"]
            waiting.sendall(ONE)
            assert waiting.recv(1 << 16).startswith(b"HTTP/1.1 200")


@contextmanager
def in_hand(url: str) -> Iterator[socket.socket]:
    """A request that the API has admitted, as its "100 Continue" says, and whose body is still to come."""
    parts = urlsplit(url)
    head = (
        f"POST /{PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(ONE)}\r\nexpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection((str(parts.hostname), int(parts.port or 0))) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100")
        yield connection


@pytest.mark.parametrize(
    ("flags", "variables", "status"),
    [
        (("--fallback",), {}, 200),
        ((), {"HEADRACE_FALLBACK": "true"}, 200),
        (("--no-fallback",), {"HEADRACE_FALLBACK": "true"}, 503),
        ((), {}, 503),
    ],
)
def test_without_redis_it_does_what_it_was_told(
    kafka: str, flags: tuple[str, ...], variables: dict[str, str], status: int
) -> None:
    with EmbeddedRedis.start() as redis, served(kafka, redis.url, *flags, **variables) as url:
        assert "fallback" not in asked(url, ONE).body["flags"]
        redis.kill()

        answer = asked(url, ONE)

        assert answer.status == status
        assert answer.body.get("flags") == (["fallback"] if status == 200 else None)


@pytest.mark.parametrize("name", LOW)
def test_a_limit_that_lets_nothing_through_is_refused(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    variable = f"HEADRACE_{name.upper().replace('-', '_')}"
    by_flag = cli("serve", PAYMENTS, f"--{name}", "0")
    monkeypatch.setenv(variable, "many")
    by_variable = cli("serve", PAYMENTS)

    assert (by_flag.code, by_variable.code) == (2, 2)
    assert f"the setting {name.replace('-', '_')} cannot be 0" in by_flag.err
    assert f"--{name}, {variable} or .env" in by_flag.err
    assert "greater than or equal to 1" in by_flag.err
    assert "cannot be 'many'" in by_variable.err


def test_the_defaults_are_those_of_the_api() -> None:
    fields, limits = Settings.model_fields, Limits()

    assert fields["max_body"].default == limits.max_body_bytes
    assert fields["max_batch"].default == limits.max_batch
    assert fields["max_concurrency"].default == limits.max_concurrency
    assert fields["fallback"].default == limits.fallback
