"""Kafka and Redis behind TLS and passwords, through the commands; no password is ever shown."""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import httpx
import jwt
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from features.embedded import EmbeddedRedis
from headrace.demo.feeding import payment
from headrace.errors import UsageRefused
from headrace.settings import settings, shown
from tests.headrace.conftest import PAYMENTS, Cli, headrace
from tests.parts.secured import PASSWORD, USER, Secured, secured_kafka
from tests.parts.tls import tls_before

REDIS_PASSWORD = "p@ss/w:rd"
REFUSED = "not the password"


class Places(NamedTuple):
    """A Kafka with TLS and SASL, and a Redis with TLS and a user."""

    kafka: Secured
    redis: str
    redis_ca: Path

    @property
    def variables(self) -> dict[str, str]:
        """What leads there."""
        return {
            "HEADRACE_KAFKA": self.kafka.bootstrap("SASL_SSL"),
            "HEADRACE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "HEADRACE_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "HEADRACE_KAFKA_SASL_USERNAME": USER,
            "HEADRACE_KAFKA_SASL_PASSWORD": PASSWORD,
            "HEADRACE_KAFKA_SSL_CA_LOCATION": str(self.kafka.ca),
            "HEADRACE_REDIS": self.url(REDIS_PASSWORD),
        }

    def url(self, password: str) -> str:
        """Redis with a password."""
        host = self.redis.removeprefix("rediss://")
        return f"rediss://worker:{quote(password, safe='')}@{host}?ssl_ca_certs={self.redis_ca}"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with secured_kafka(tmp_path_factory.mktemp("secured")) as kafka, EmbeddedRedis.start() as store:
        with redis.Redis.from_url(store.url) as client:
            client.acl_setuser(
                "worker", enabled=True, passwords=[f"+{REDIS_PASSWORD}"], keys=["*"], categories=["+@all"]
            )
            client.acl_setuser("default", enabled=False)
        certificate, key = (kafka.ca.with_name(f"broker{ending}.pem") for ending in ("", "-key"))
        with tls_before(int(urlsplit(store.url).port or 0), certificate, key) as port:
            yield Places(kafka, f"rediss://127.0.0.1:{port}/0", kafka.ca)


@pytest.fixture
def there(places: Places, monkeypatch: pytest.MonkeyPatch) -> Places:
    """The environment leads to the places."""
    for name, value in places.variables.items():
        monkeypatch.setenv(name, value)
    return places


def test_the_loop_runs_behind_tls_and_passwords(cli: Cli, there: Places, tmp_path: Path) -> None:
    assert cli("topics", "apply", PAYMENTS, "--partitions", 1).code == 0
    # of now: a real broker soon deletes what is older than the retention of its topic
    now = time.time_ns() // 1_000_000
    source = tmp_path / "few.ndjson"
    source.write_bytes(b"".join(payment(f"p{k}", "c1", "t1", 5.0, now + k) + b"\n" for k in range(20)))
    assert cli("produce", PAYMENTS, "transactions", source).code == 0
    doctor = cli("doctor", PAYMENTS, "--json")
    assert {"Kafka", "Redis"} <= {f["what"] for f in doctor.json["findings"] if f["level"] == "ok"}

    worker = headrace("worker", PAYMENTS, env={**os.environ, **there.variables})
    try:
        asked = ("features", "get", PAYMENTS, "CardActivity", "c1", "--at", now + 100, "--json")
        while cli(*asked).json["values"]["count_1d"] != 20:  # until the worker has folded them
            assert worker.poll() is None
    finally:
        worker.terminate()
        _, said = worker.communicate()

    assert worker.returncode == 0, said
    assert f"and rediss://127.0.0.1:{there.redis.rpartition(':')[2]}" in said
    assert PASSWORD not in said
    assert REDIS_PASSWORD not in said
    assert quote(REDIS_PASSWORD, safe="") not in said


def test_the_api_serves_with_tls_keys_and_tokens_behind_tls_and_passwords(
    cli: Cli, there: Places, tmp_path: Path
) -> None:
    assert cli("topics", "apply", PAYMENTS, "--partitions", 1).code == 0
    keys = tmp_path / "keys"
    secret = cli("keys", "new", keys, "--id", "till", "--scope", "read").out.strip()
    certificate, key = (there.kafka.ca.with_name(f"broker{ending}.pem") for ending in ("", "-key"))
    signer, jwks = ec.generate_private_key(ec.SECP256R1()), tmp_path / "jwks.json"
    jwks.write_text(
        json.dumps({"keys": [ECAlgorithm.to_jwk(signer.public_key(), as_dict=True) | {"kid": "1"}]})
    )
    claims = {"iss": "i", "aud": "a", "sub": "s", "exp": int(time.time()) + 600, "scope": "read"}
    token = jwt.encode(claims, signer, "ES256", headers={"kid": "1"})
    files = ("--keys", keys, "--tls-cert", certificate, "--tls-key", key)
    issuer = ("--jwks", jwks, "--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-rate", "1/day")

    api = headrace("serve", PAYMENTS, "--port", 0, *files, *issuer, env={**os.environ, **there.variables})
    try:
        assert api.stderr is not None
        said = ""
        while not (found := re.search(r"https://[\d.:]+", said)):
            line = api.stderr.readline()
            assert line, said
            said += line
        trusting = ssl.create_default_context(cafile=str(there.kafka.ca))
        with httpx.Client(base_url=found[0], verify=trusting) as client:
            answers = [
                client.get(path, headers=headers).status_code
                for path in ("/livez", "/v1/models")
                for headers in ({}, {"authorization": f"Bearer {secret}"})
            ]
            by_token = [
                client.get("/v1/models", headers={"authorization": f"Bearer {shown}"}).status_code
                for shown in (token, token, token[:-9])
            ]
    finally:
        api.terminate()
        _, rest = api.communicate()

    assert answers == [200, 200, 401, 200]
    assert by_token == [200, 429, 401]
    assert api.returncode == 0, rest
    for hidden in (secret, token, PASSWORD, REDIS_PASSWORD, quote(REDIS_PASSWORD, safe="")):
        assert hidden not in said + rest


COMMANDS = [
    ("topics", "apply", PAYMENTS),
    ("worker", PAYMENTS),
    ("serve", PAYMENTS, "--port", 0),
    ("verify", PAYMENTS),
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_wrong_password_of_kafka_ends_a_command_with_the_reason(
    cli: Cli, there: Places, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...]
) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA_SASL_PASSWORD", REFUSED)

    answer = cli(*words)

    assert answer.code == 1
    said = answer.out + answer.err
    for part in ("error:", "where:", "why:", "fix:"):
        assert part in said
    assert "uthentication failed" in said
    assert REFUSED not in said


def test_a_wrong_password_of_redis_ends_a_command_with_the_reason(
    cli: Cli, there: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("topics", "apply", PAYMENTS, "--partitions", 1).code == 0
    monkeypatch.setenv("HEADRACE_REDIS", there.url(REFUSED))

    for words in (
        ("features", "get", PAYMENTS, "CardActivity", "c"),
        ("serve", PAYMENTS),
        ("worker", PAYMENTS),
    ):
        answer = cli(*words)

        assert answer.code == 1
        assert "Redis does not let us in" in answer.err
        assert "put the right user and password into the URL" in answer.err
        assert REFUSED not in answer.err
        assert quote(REFUSED) not in answer.err


def test_flags_say_all_but_the_password(cli: Cli, there: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["security_protocol", "sasl_mechanism", "sasl_username", "ssl_ca_location"]
    flags: list[str] = ["--kafka", there.variables["HEADRACE_KAFKA"]]
    for name in names:
        flags += [f"--kafka-{name.replace('_', '-')}", there.variables[f"HEADRACE_KAFKA_{name.upper()}"]]
        monkeypatch.delenv(f"HEADRACE_KAFKA_{name.upper()}")

    assert cli("topics", "apply", PAYMENTS, "--dry-run", *flags).code == 0
    assert cli("topics", "apply", PAYMENTS, "--kafka-sasl-password", "x").code == 2


def test_settings_that_do_not_fit_together_are_a_usage_error(cli: Cli) -> None:
    answer = cli("topics", "apply", PAYMENTS, "--kafka-security-protocol", "SASL_SSL")

    assert answer.code == 2
    assert "SASL_SSL needs one" in answer.err


@pytest.mark.parametrize(
    "url", ["redis://:half/password@host:6379/0", "host:6379", "http://host", "redis://host:port"]
)
def test_a_url_that_is_none_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UsageRefused) as caught:
        settings(redis=url)

    assert "half" not in str(caught.value)
    assert "%XX" in caught.value.why


def test_an_address_is_shown_without_its_password() -> None:
    url = f"rediss://me:{quote(REDIS_PASSWORD, safe='')}@redis-1:6380/2?password=x"
    assert shown(url) == "rediss://redis-1:6380/2"
