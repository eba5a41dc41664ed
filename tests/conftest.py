"""The servers that tests share: started when first asked for, ended with the session."""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from features.embedded import EmbeddedRedis
from streams.embedded import EmbeddedKafka
from tests.parts.broker import Broker
from tests.parts.cluster import Cluster, started
from tests.parts.kafka import KafkaServer


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A real Apache Kafka. Where Java or Maven is missing: the embedded broker, but under CI a failure."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"CI tests against a real Kafka: install {' and '.join(missing)}")
    if missing:
        embedded: EmbeddedKafka = request.getfixturevalue("embedded_kafka")
        yield embedded
        return
    with KafkaServer.start(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(scope="session")
def embedded_kafka() -> Iterator[EmbeddedKafka]:
    """The embedded broker, without topics."""
    with EmbeddedKafka.start({}) as broker:
        yield broker


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """A real Redis; `redis_url` is the same one, emptied."""
    with EmbeddedRedis.start() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The URL of a Redis that holds nothing."""
    address = urlsplit(redis_server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30.0) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        answer = connection.recv(64)
    assert answer == b"+OK\r\n", answer
    return redis_server.url


@pytest.fixture(scope="session")
def redis_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real Redis Cluster of three masters; `redis_cluster` is the same one, emptied."""
    with started(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(redis_nodes: Cluster) -> Cluster:
    """A Redis Cluster that holds nothing."""
    redis_nodes.empty()
    return redis_nodes


@pytest.fixture
def topic_prefix() -> str:
    """The first part of topic and group names that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"
