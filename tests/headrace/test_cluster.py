"""The whole job on a Redis Cluster: a worker, an API, and everything that they have logged verifies."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from features.embedded import free_port
from headrace.loading import load
from models.deployment import topics_of
from models.topics import dead_letter_topic
from streams.embedded import EmbeddedKafka
from tests.parts.cluster import Cluster

from .conftest import PAYMENTS, Cli, Files, headrace, metrics_once

ASKED = 20


@contextmanager
def api(*where: str) -> Iterator[str]:
    process = headrace("serve", PAYMENTS, *where, "--port", 0)
    try:
        assert process.stderr is not None
        yield process.stderr.readline().split()[-1]
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0


def test_a_worker_and_an_api_on_a_cluster_and_every_prediction_verifies(
    cli: Cli, files: Files, redis_cluster: Cluster
) -> None:
    topics = topics_of(load(PAYMENTS).project, {"payments.transactions.v1": 8, "payments.chargebacks.v1": 1})
    with EmbeddedKafka.start(topics | {dead_letter_topic(topic): 1 for topic in topics}) as kafka:
        for source, path in (("transactions", files.transactions), ("chargebacks", files.chargebacks)):
            assert cli("produce", PAYMENTS, source, path, "--kafka", kafka.bootstrap).code == 0
        where = ("--kafka", kafka.bootstrap, "--redis", redis_cluster.url)
        port = free_port()
        worker = headrace("worker", PAYMENTS, *where, "--session-timeout", "2", "--metrics-port", port)
        try:
            metrics_once(worker, port, files)
            with api(*where) as url:
                for k, line in enumerate(files.transactions.read_bytes().splitlines()[-ASKED:]):
                    event = json.loads(line) | {"id": f"asked-{k}"}
                    request = urllib.request.Request(
                        f"{url}v1/models/fraud/predict",
                        json.dumps(event).encode(),
                        {"content-type": "application/json"},
                    )
                    with urllib.request.urlopen(request) as answer:
                        told = json.loads(answer.read())
                    assert 0 < told["score"] < 1
                    assert told["version"] == files.verdicts
        finally:
            worker.terminate()
            worker.communicate()
        verified = cli("verify", PAYMENTS, *where, "--json").json["models"][0]
        found = {f["what"]: f for f in cli("doctor", PAYMENTS, *where, "--json").json["findings"]}

    assert worker.returncode == 0
    assert (verified["equal"], verified["different"]) == (files.payments + ASKED, 0)
    assert found["Redis Cluster"]["found"] == "3 masters, 16384 of 16384 slots served"
    assert found["groups in the cluster"]["found"].startswith(f"{sum(topics.values())} on 3 masters: ")
    assert found["groups in the cluster"]["level"] == "warning"  # fewer than four a master
    assert sum(what.startswith("Redis eviction at 127.0.0.1:") for what in found) == 3
