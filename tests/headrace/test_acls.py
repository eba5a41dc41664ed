"""What each role may do in Kafka, both ways: all that it needs works, and everything else is refused."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka._model import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic

from features.embedded import EmbeddedRedis
from headrace.acls import Acl, acls, user
from headrace.cli import run
from headrace.demo.feeding import payment, verdict
from headrace.loading import load
from tests.headrace.conftest import PAYMENTS, Cli, headrace
from tests.parts.secured import Guarded, guarded_kafka

PROJECT = load(PAYMENTS).project
TX, CB = "payments.transactions.v1", "payments.chargebacks.v1"
LOG, SAMPLES = "headrace.payments.fraud.log.v1", "headrace.payments.fraud.samples.v1"
OURS = (TX, CB, LOG, SAMPLES)
FOREIGN = "other.events.v1"
READER = "headrace-log-reader"
GROUPS = (
    *("headrace.payments", "headrace.payments.features", "headrace.payments.join", "headrace.payments.learn"),
    *("headrace.payments.features-join", "headrace.payments-2", "headrace.other", "else", READER),
)


def dlq(*topics: str) -> tuple[str, ...]:
    return tuple(f"{topic}.dlq" for topic in topics)


# by hand: who reads, writes or only sees which topics, may look at their settings, works in which groups
MAY: Mapping[str, Mapping[str, Collection[str]]] = {
    "worker": {
        "read": OURS,
        "write": (LOG, SAMPLES, *dlq(*OURS)),
        "settings": (*OURS, *dlq(*OURS)),
        "groups": [group for group in GROUPS if re.fullmatch(r"headrace\.payments(\..+)?", group)],
    },
    "worker-features": {
        "read": (TX, CB, SAMPLES),  # samples are the outcomes that a view is over
        "write": (LOG, *dlq(TX, CB, SAMPLES)),
        "settings": (*OURS, *dlq(TX, CB, SAMPLES)),
        "groups": ["headrace.payments.features"],
    },
    "worker-join": {
        "read": (LOG,),
        "write": (SAMPLES, *dlq(LOG)),
        "see": (TX, CB),
        "settings": (*OURS, *dlq(LOG)),
        "groups": ["headrace.payments.join"],
    },
    "worker-learn": {
        "read": (SAMPLES,),
        "write": dlq(SAMPLES),
        "see": (TX, CB, LOG),
        "settings": (*OURS, *dlq(SAMPLES)),
        "groups": ["headrace.payments.learn"],
    },
    "api": {"write": (TX, CB, LOG), "see": (SAMPLES,)},
    f"producer-{TX}": {"write": (TX,)},
    f"producer-{CB}": {"write": (CB,)},
    "reader": {"read": (*OURS, *dlq(*OURS)), "asks": [READER]},
    "letters": {
        "read": (TX, CB, *dlq(*OURS)),
        "write": (TX, CB, *dlq(*OURS)),
        "see": (LOG, SAMPLES),
        "asks": [READER],
    },
    "eraser": {"write": (TX, CB), "see": (LOG, SAMPLES)},
    "admin": {
        "see": (*OURS, *dlq(*OURS)),
        "create": (*OURS, *dlq(*OURS)),
        "settings": (*OURS, *dlq(*OURS)),
    },
    "stranger": {},
}


@contextmanager
def as_role(kafka: Guarded, role: str, **more: str) -> Iterator[None]:
    """The environment of a process that is this role."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables(kafka, role, **more).items():
            patch.setenv(name, value)
        yield


def variables(kafka: Guarded, role: str, **more: str) -> dict[str, str]:
    name = user(PROJECT, role)
    return {
        "HEADRACE_KAFKA": kafka.bootstrap,
        "HEADRACE_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "HEADRACE_KAFKA_SASL_MECHANISM": "PLAIN",
        "HEADRACE_KAFKA_SASL_USERNAME": name,
        "HEADRACE_KAFKA_SASL_PASSWORD": kafka.passwords[name],
    } | more


def bound(acl: Acl) -> AclBinding:
    operation = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", acl.operation).upper()
    return AclBinding(
        ResourceType[acl.resource_type.upper()],
        acl.name,
        ResourcePatternType[acl.pattern_type.upper()],
        acl.principal,
        "*",
        AclOperation[operation],
        AclPermissionType[acl.permission.upper()],
    )


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A Kafka with the permissions of the payments project, and its topics, which its admin has made."""
    users = [user(PROJECT, role) for role in MAY]
    with guarded_kafka(tmp_path_factory.mktemp("guarded"), users) as made:
        owner = AdminClient({"bootstrap.servers": made.server.bootstrap})
        for done in owner.create_acls([bound(acl) for acl in acls(PROJECT)]).values():
            done.result()
        made.server.create_topic(FOREIGN, 1)
        mine = owner.describe_cluster(include_authorized_operations=True).result().authorized_operations
        assert AclOperation.CREATE in mine  # so that none at all of the others tells something
        asked = [ConsumerGroupTopicPartitions(READER)]
        while refusal(next(iter(owner.list_consumer_group_offsets(asked).values())).result):
            continue  # the first one that asks for a group's broker makes the topic of the groups
        with as_role(made, "admin"):
            assert run(["topics", "apply", str(PAYMENTS), "--partitions", "1"]) == 0
        assert made.refused() == []
        yield made


def client(kafka: Guarded, role: str) -> AdminClient:
    return AdminClient(kafka.librdkafka(user(PROJECT, role)))  # type: ignore[arg-type]  # as upstream declares it


def refusal(ask: Callable[[], Any]) -> str:
    """The name of the error that a request is answered with; empty where it is granted."""
    try:
        ask()
    except KafkaException as error:
        return str(error.args[0].name())
    return ""


@pytest.mark.parametrize("role", MAY)
def test_what_the_broker_grants_of_each_topic(kafka: Guarded, role: str) -> None:
    may, every, asked = MAY[role], [*OURS, *dlq(*OURS), FOREIGN], client(kafka, role)
    wanted: dict[str, set[str]] = {}
    for topic in every:
        words = {word for word in ("read", "write", "create") if topic in may.get(word, ())}
        if words & {"read", "write"} or topic in may.get("see", ()):
            words.add("describe")
        if topic in may.get("settings", ()):
            words.add("describe_configs")
        wanted[topic] = words

    answers = asked.describe_topics(TopicCollection(every), include_authorized_operations=True)
    granted: dict[str, set[str]] = {}
    for topic, answer in answers.items():
        if refusal(answer.result) == "TOPIC_AUTHORIZATION_FAILED":
            granted[topic] = set()
        else:
            granted[topic] = {operation.name.lower() for operation in answer.result().authorized_operations}

    assert granted == wanted


@pytest.mark.parametrize("role", MAY)
def test_what_is_refused_of_groups_and_of_the_cluster(kafka: Guarded, role: str) -> None:
    may, asked = MAY[role], client(kafka, role)
    seen = []
    for group in GROUPS:
        (found,) = asked.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        refused = refusal(found.result)
        assert refused in ("", "GROUP_AUTHORIZATION_FAILED")
        if not refused:
            seen.append(group)
        place = [ConsumerGroupTopicPartitions(group, [TopicPartition(FOREIGN, 0, 0)])]
        (moved,) = asked.alter_consumer_group_offsets(place).values()
        why = "TOPIC" if group in may.get("groups", ()) else "GROUP"
        assert _commit(moved) == f"{why}_AUTHORIZATION_FAILED", group
    assert seen == [group for group in GROUPS if group in {*may.get("groups", ()), *may.get("asks", ())}]

    shorter = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(ResourceType.TOPIC, TX, incremental_configs=[shorter])
    of_broker = ConfigResource(ResourceType.BROKER, "1")
    everything = bound(Acl(f"User:{user(PROJECT, role)}", "topic", "*", "literal", "Read"))
    answers = {
        "create": asked.create_topics([NewTopic("other.new.v1", 1)])["other.new.v1"],
        "delete": asked.delete_topics([TX])[TX],
        "settings": asked.incremental_alter_configs([topic])[topic],
        "broker": asked.describe_configs([of_broker])[of_broker],
        "grant": asked.create_acls([everything])[everything],
    }
    for what, answer in answers.items():
        assert refusal(answer.result).endswith("_AUTHORIZATION_FAILED"), what
    assert not asked.describe_cluster(include_authorized_operations=True).result().authorized_operations


def _commit(moved: Future[ConsumerGroupTopicPartitions]) -> str:
    """What the only place of a commit is answered with, whether or not the group's broker could be asked for."""
    refused = refusal(moved.result)
    if refused:
        return refused
    places = moved.result().topic_partitions
    assert places is not None
    (place,) = places
    return "" if place.error is None else str(place.error.name())


def test_a_topic_of_another_role_is_not_written_and_no_transaction_begun(kafka: Guarded) -> None:
    told: dict[str, str] = {}
    settings = kafka.librdkafka(user(PROJECT, f"producer-{TX}"))
    producer = Producer(settings | {"enable.idempotence": "true", "message.timeout.ms": "20000"})
    for topic in (TX, CB, LOG, SAMPLES, FOREIGN):
        producer.produce(
            topic,
            b"{}",
            on_delivery=lambda e, m: told.update({str(m.topic()): "" if e is None else e.name()}),
        )
    assert producer.flush(60) == 0
    transactional = Producer(settings | {"transactional.id": "payments"})

    assert told == {TX: ""} | dict.fromkeys((CB, LOG, SAMPLES, FOREIGN), "TOPIC_AUTHORIZATION_FAILED")
    assert refusal(lambda: transactional.init_transactions(60)) == "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"


def test_the_loop_runs_with_these_permissions_and_asks_for_no_others(
    cli: Cli, kafka: Guarded, tmp_path: Path
) -> None:
    before = len(kafka.refused())
    now = time.time_ns() // 1_000_000
    paid, known = tmp_path / "paid.ndjson", tmp_path / "known.ndjson"
    paid.write_bytes(b"".join(payment(f"p{k}", "c1", "t1", 5.0, now + k) + b"\n" for k in range(40)))
    known.write_bytes(b"".join(verdict(f"p{k}", k % 2 == 0, now + 100 + k) + b"\n" for k in range(20)))
    workers: list[subprocess.Popen[str]] = []
    with EmbeddedRedis.start() as store:
        here = {"HEADRACE_REDIS": store.url}

        def started(role: str, *words: object) -> subprocess.Popen[str]:
            workers.append(headrace(*words, env={**os.environ, **variables(kafka, role), **here}))
            return workers[-1]

        def asked(role: str, *words: object, code: int = 0) -> Any:
            with as_role(kafka, role, **here):
                answer = cli(*words, "--json")
            assert all(process.poll() is None for process in workers)
            assert answer.code == code, answer.err
            return answer.json

        def features(count: int) -> None:
            words = ("features", "get", PAYMENTS, "CardActivity", "c1", "--at", now + 1_000)
            while asked("reader", *words)["values"]["count_1d"] != count:
                pass

        def learned(count: int) -> None:
            while asked("reader", "models", "list", PAYMENTS)["models"][0]["version"] != count:
                pass

        try:
            for role in ("features", "join", "learn"):
                started(f"worker-{role}", *("worker", PAYMENTS, "--role", role, "--session-timeout", 2))
            asked(f"producer-{TX}", "produce", PAYMENTS, "transactions", paid)
            producer = Producer(kafka.librdkafka(user(PROJECT, f"producer-{TX}")))
            producer.produce(TX, b"bad")
            assert producer.flush(60) == 0
            asked(f"producer-{CB}", "produce", PAYMENTS, "chargebacks", known)
            features(40)
            learned(20)
            url = _url(started("api", "serve", PAYMENTS, "--port", 0))
            with httpx.Client(base_url=url) as caller:
                body = payment("p99", "c1", "t1", 5.0, now + 900)
                answer = caller.post("/v1/models/fraud/predict", content=body)
                sent = caller.post("/v1/events/transactions", content=body)
                label = caller.post("/v1/labels/chargebacks", content=verdict("p99", True, now + 950))
            assert (answer.status_code, sent.status_code, label.status_code) == (200, 202, 202)
            learned(21)
            for process in workers[:3]:
                process.terminate()
                _, said = process.communicate()
                assert process.returncode == 0, said
            del workers[:3]

            mended = tmp_path / "mended.ndjson"
            asked("reader", "dlq", "export", PAYMENTS, "--to", mended)
            (letter,) = [
                letter
                for line in mended.read_text().splitlines()
                if (letter := json.loads(line)).get("value") == "bad"
            ]
            letter["value"] = payment("p100", "c1", "t1", 5.0, now + 901).decode()
            mended.write_text(json.dumps(letter))
            assert asked("letters", "dlq", "replay", PAYMENTS, "--from", mended)["sent"] == 1
            started("worker", "worker", PAYMENTS, "--session-timeout", 2)
            features(42)
            assert asked("eraser", "forget", PAYMENTS, "card", "c1")["states"] == {"before": 1, "now": 0}
            (checked,) = asked("reader", "verify", PAYMENTS)["models"]
            assert checked["different"] == 0
            assert checked["equal"] > 40
            levels = {f["what"]: f["level"] for f in asked("admin", "doctor", PAYMENTS)["findings"]}
            assert {levels[topic] for topic in (*OURS, *dlq(*OURS))} == {"ok"}
        finally:
            for process in workers:
                process.terminate()
                process.communicate()

    assert kafka.refused()[before:] == []


def _url(api: subprocess.Popen[str]) -> str:
    assert api.stderr is not None
    said = ""
    while not (found := re.search(r"http://[\d.:]+", said)):
        line = api.stderr.readline()
        assert line, said
        said += line
    return found[0]


def test_the_calls_of_kafkas_own_tool_grant_the_same(cli: Cli) -> None:
    listed = cli("access", PAYMENTS, "--kafka", "--json").json["kafka"]
    first, *calls = cli("access", PAYMENTS, "--kafka").out.splitlines()
    tool = argparse.ArgumentParser()  # the options of Kafka's AclCommand that are used
    for option in ("--bootstrap-server", "--command-config", "--allow-principal", "--resource-pattern-type"):
        tool.add_argument(option, required=True)
    tool.add_argument("--add", action="store_true", required=True)
    for option in ("--operation", "--topic", "--group"):
        tool.add_argument(option, action="append", default=[])

    granted = []
    for call in calls:
        program, *words = shlex.split(call)
        said = tool.parse_args(words)
        assert (program, said.bootstrap_server, said.command_config) == (
            "kafka-acls.sh",
            "$BROKERS",
            "$ADMIN",
        )
        granted += [
            Acl(said.allow_principal, kind, name, said.resource_pattern_type, operation)._asdict()
            for kind in ("topic", "group")
            for name in getattr(said, kind)
            for operation in said.operation
        ]

    assert first == "set -eu"
    assert sorted(map(str, granted)) == sorted(map(str, listed))
    assert len({str(acl) for acl in listed}) == len(listed)
    assert {acl["principal"] for acl in listed} == {
        f"User:{user(PROJECT, role)}" for role in MAY if role != "stranger"
    }
