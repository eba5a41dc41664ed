"""Kafka with TLS and SASL: every client of ours gets in with the right settings, and says what is wrong with others."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer

from headrace.errors import told
from streams.admin import Admin
from streams.errors import ClientRefused, SecurityUnusable
from streams.follow import Follower
from streams.log import LogReader, Partition
from streams.producer import Outgoing, Producer
from streams.security import Brokers
from streams.spool import Spool
from tests.parts.secured import PASSWORD, USER, Secured, secured_kafka

PLAIN = {"mechanism": "PLAIN", "username": USER, "password": PASSWORD}
SCRAM_256 = PLAIN | {"mechanism": "SCRAM-SHA-256"}
SCRAM_512 = PLAIN | {"mechanism": "SCRAM-SHA-512"}


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured_kafka(tmp_path_factory.mktemp("secured")) as made:
        yield made


def brokers(kafka: Secured, protocol: str, **more: str) -> Brokers:
    """The brokers by a protocol; with TLS the client knows the authority, and has a certificate where it is asked."""
    files = {"ca": str(kafka.ca)} if protocol.endswith("SSL") else {}
    if protocol == "SSL":
        files |= {"certificate": str(kafka.certificate), "key": str(kafka.key)}
    return Brokers(kafka.bootstrap(protocol), protocol, **(files | more))


@pytest.mark.parametrize(
    ("protocol", "more"),
    [
        ("SASL_PLAINTEXT", SCRAM_256),
        ("SASL_PLAINTEXT", PLAIN),
        ("SASL_SSL", PLAIN),
        ("SASL_SSL", SCRAM_512),
        ("SSL", {}),
    ],
)
async def test_every_client_gets_in(
    kafka: Secured, protocol: str, more: dict[str, str], topic_prefix: str, tmp_path: Path
) -> None:
    reached = brokers(kafka, protocol, **more)
    topic = f"{topic_prefix}.events"
    kafka.server.create_topic(topic, 1)

    async with Producer(reached) as producer:
        await producer.send([Outgoing(topic, b"k", b"v", (), 1_000)])
    with LogReader(reached) as reader:
        ((record,),) = reader.read(topic, 0, 0, 1)
        ends = reader.highwaters([Partition(topic, 0)])
    with Admin(reached) as admin:
        found = admin.found([topic])
    follower = Follower(reached, {topic: 1}, Spool(tmp_path))
    while not follower.reached(ends):
        assert follower.error is None
        await asyncio.sleep(0.01)
    follower.stop()
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=reached.bootstrap, auto_offset_reset="earliest", **reached.aiokafka()
    )
    await consumer.start()
    try:
        polled = await consumer.getone()
    finally:
        await consumer.stop()

    assert (record.key, record.value) == (polled.key, polled.value) == (b"k", b"v")
    assert found[topic].partitions == 1


WRONG = [
    ("SASL_SSL", PLAIN | {"password": "battery staple"}),
    ("SASL_PLAINTEXT", SCRAM_256 | {"password": "battery staple"}),
    ("SASL_PLAINTEXT", PLAIN | {"username": "bob"}),
]


@pytest.mark.parametrize(("protocol", "more"), WRONG)
def test_a_wrong_user_or_password_is_told_in_four_parts(
    kafka: Secured, protocol: str, more: dict[str, str]
) -> None:
    reached = brokers(kafka, protocol, **more)

    for ask in (lambda r: LogReader(r, 5.0).partitions("t"), lambda r: Admin(r, 5.0).cluster()):
        with pytest.raises(ClientRefused) as caught:
            ask(reached)
        parts = told(caught.value)
        assert all(parts), parts
        assert parts.where == reached.bootstrap
        assert "uthentication failed" in parts.why
        assert "the user name and the password" in parts.fix
        assert more["password"] not in str(caught.value)


def test_a_broker_of_a_stranger_is_not_trusted(kafka: Secured) -> None:
    reached = brokers(kafka, "SASL_SSL", **PLAIN, ca=str(kafka.stranger))

    with pytest.raises(ClientRefused, match="certificate verify failed"):
        LogReader(reached, 5.0).partitions("t")


def test_a_broker_does_not_trust_a_client_without_a_certificate(kafka: Secured) -> None:
    reached = Brokers(kafka.bootstrap("SSL"), "SSL", ca=str(kafka.ca))

    with pytest.raises(ClientRefused):
        LogReader(reached, 5.0).partitions("t")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"protocol": "TLS"}, "there is no TLS"),
        ({"protocol": "SASL_SSL"}, "SASL_SSL needs one"),
        ({"protocol": "SASL_SSL"} | PLAIN | {"password": ""}, "SASL password"),
        ({"protocol": "SASL_SSL"} | PLAIN | {"mechanism": "GSSAPI"}, "there is no GSSAPI"),
        (PLAIN, "PLAINTEXT has no SASL"),
        ({"protocol": "SSL", "password": "x"}, "SSL has no SASL"),
        ({"ca": "ca.pem"}, "PLAINTEXT has no TLS"),
        ({"protocol": "SSL", "key": "key.pem"}, "no certificate that it belongs to"),
        ({"protocol": "SSL", "ca": "nowhere.pem"}, "No such file"),
        ({"protocol": "SSL", "certificate": "nowhere.pem"}, "No such file"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(SecurityUnusable, match=said) as caught:
        Brokers("broker:9092", **given)

    parts = told(caught.value)
    assert parts.what
    assert parts.why
    assert parts.fix


def test_a_key_that_is_encrypted_or_of_another_certificate_is_refused(kafka: Secured, tmp_path: Path) -> None:
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-in", str(kafka.key), "-aes256", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(command, check=True)
    for key in (locked, kafka.ca.with_name("broker-key.pem")):
        with pytest.raises(SecurityUnusable, match="certificate and key"):
            brokers(kafka, "SSL", key=str(key))


def test_a_password_is_not_shown() -> None:
    made = Brokers("broker:9092", "SASL_PLAINTEXT", **PLAIN)

    assert PASSWORD not in repr(made)
