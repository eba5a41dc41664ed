"""`headrace topics apply` makes what is missing and tells how the rest differs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from features.clock import MILLISECONDS
from headrace.loading import load
from headrace.topics import FOREVER, RETENTION, differences, retentions, short_of, wanted_topics
from streams.admin import Admin, Found, Topic
from streams.embedded import EmbeddedKafka
from tests.headrace.conftest import PAYMENTS, Cli
from tests.parts.broker import Broker
from tests.parts.kafka import KafkaServer
from tests.streams.shop import build

DAY = MILLISECONDS["d"]


def project_file(folder: Path, prefix: str) -> Path:
    """The payments project under topics and a name that no other test has."""
    source = (
        PAYMENTS.read_text()
        .replace('"payments.', f'"{prefix}.')
        .replace('Project("payments"', f'Project("{prefix}"')
    )
    file = folder / f"{prefix}.py"
    file.write_text(source)
    return file


def test_topics_are_kept_as_long_as_they_are_needed() -> None:
    kept = retentions(load(PAYMENTS).project)

    assert kept["payments.transactions.v1"] >= (30 + 14) * DAY
    assert kept["payments.chargebacks.v1"] >= 15 * DAY
    assert kept["headrace.payments.fraud.log.v1"] >= 15 * DAY
    assert kept["headrace.payments.fraud.samples.v1"] == FOREVER


def test_the_log_is_kept_longer_where_vectors_wait_in_it_alone() -> None:
    """Horizon, lateness, the horizon again for corrections, a week for labels that stand still."""
    project = build("kept", absent=False, vectors="log", learn_corrections=True)

    assert retentions(project)["headrace.kept.fraud.log.v1"] == (4 + 1 + 4 + 7) * DAY
    (log,) = [topic for topic in wanted_topics(project) if topic.name == "headrace.kept.fraud.log.v1"]
    (found,) = differences([log], {log.name: Found(log.partitions, {RETENTION: str(15 * DAY)})})
    assert (found.setting, found.found) == (RETENTION, "15d")


def test_every_topic_has_its_dead_letters() -> None:
    names = [topic.name for topic in wanted_topics(load(PAYMENTS).project, 8)]

    assert {f"{name}.dlq" for name in names if not name.endswith(".dlq")} <= set(names)


def test_what_is_missing_is_made_and_what_differs_is_told(
    cli: Cli, kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    file, where = project_file(tmp_path, topic_prefix), ("--kafka", kafka.bootstrap)
    if isinstance(
        kafka, EmbeddedKafka
    ):  # this machine has no Java: the broker that stands in cannot make topics
        answer = cli("topics", "apply", file, *where)
        assert answer.code == 1
        assert "cannot create topics" in answer.err
        return

    planned = cli("topics", "apply", file, "--dry-run", "--json", *where).json
    with Admin(kafka.bootstrap) as admin:
        assert admin.found([topic["name"] for topic in planned["created"]]) == {}

        made = cli("topics", "apply", file, "--partitions", 3, "--json", *where)
        found = admin.found([topic["name"] for topic in made.json["created"]])

    assert made.code == 0
    assert made.json["left_out"] == []
    assert len(found) == 8
    transactions = found[f"{topic_prefix}.transactions.v1"]
    assert transactions.partitions == 3
    assert transactions.config["message.timestamp.type"] == "CreateTime"
    assert transactions.config["message.timestamp.after.max.ms"] == str(5 * 60_000)
    assert int(transactions.config[RETENTION]) >= 44 * DAY
    assert found[f"headrace.{topic_prefix}.fraud.samples.v1"].config[RETENTION] == "-1"

    again = cli("topics", "apply", file, "--partitions", 3, "--json", *where).json
    assert (again["created"], again["differences"]) == ([], [])

    other = cli("topics", "apply", file, "--partitions", 5, *where)
    assert other.code == 1
    assert "partitions" in other.out


def test_settings_that_fall_short_are_told_with_the_command(
    cli: Cli, kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    kafka.create_topic(f"{topic_prefix}.transactions.v1", 4)
    file = project_file(tmp_path, topic_prefix)

    answer = cli("topics", "apply", file, "--dry-run", "--json", "--kafka", kafka.bootstrap)

    assert answer.code == 0
    assert answer.json["kept"] == [f"{topic_prefix}.transactions.v1"]
    if not isinstance(kafka, EmbeddedKafka):  # that one does not tell how its topics are set
        told = {d["setting"]: d for d in answer.json["differences"]}
        assert told[RETENTION]["found"] == "7d"
        assert f"--entity-name {topic_prefix}.transactions.v1" in told[RETENTION]["fix"]
        assert told["message.timestamp.after.max.ms"]["wanted"] == "5m"
        (short,) = short_of(load(file).project, kafka.bootstrap)  # what a worker warns of when it starts
        assert (short.topic, short.found) == (f"{topic_prefix}.transactions.v1", "7d")


CASES: dict[str, tuple[dict[str, str], dict[str, str], list[tuple[str, str, str, bool]]]] = {
    "all well": (
        {"cleanup.policy": "delete", "retention.bytes": "-1", "retention.ms": "5000"},
        {"cleanup.policy": "delete", "retention.bytes": "-1", "retention.ms": "-1"},
        [],
    ),
    "a log that is compacted": (
        {"cleanup.policy": "delete"},
        {"cleanup.policy": "compact"},
        [("cleanup.policy", "delete", "compact", True)],
    ),
    "a log that is compacted as well": (
        {"cleanup.policy": "delete"},
        {"cleanup.policy": "delete, compact"},
        [("cleanup.policy", "delete", "delete,compact", True)],
    ),
    "a table that is not compacted": (
        {"cleanup.policy": "compact", "delete.retention.ms": "604800000"},
        {"cleanup.policy": "delete", "retention.ms": "1", "delete.retention.ms": "604800000"},
        [("cleanup.policy", "compact", "delete", False)],
    ),
    "a table that forgets": (
        {"cleanup.policy": "compact"},
        {"cleanup.policy": "compact,delete"},
        [("cleanup.policy", "compact", "compact,delete", False)],
    ),
    "tombstones that go too soon": (
        {"cleanup.policy": "compact", "delete.retention.ms": "604800000"},
        {"cleanup.policy": "compact", "delete.retention.ms": "86400000", "retention.bytes": "5"},
        [("delete.retention.ms", "7d", "1d", False)],
    ),
    "a limit of bytes": (
        {"retention.ms": "-1", "retention.bytes": "-1"},
        {"retention.ms": "-1", "retention.bytes": "1000000000"},
        [("retention.bytes", "no limit", "1 GB a partition", False)],
    ),
    "a broker that does not tell": ({"cleanup.policy": "compact", "retention.bytes": "-1"}, {}, []),
}


@pytest.mark.parametrize("name", CASES)
def test_how_a_topic_is_kept_is_compared_with_what_is_needed(name: str) -> None:
    wanted, there, expected = CASES[name]
    found = differences([Topic("shop.x.v1", 4, wanted)], {"shop.x.v1": Found(4, there)})

    assert [(d.setting, d.wanted, d.found, d.fatal) for d in found] == expected
    assert all(f"--entity-name shop.x.v1 --add-config {d.setting}=" in d.fix for d in found)


def test_a_table_and_a_log_in_each_others_keeping_are_named(
    cli: Cli, kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    if not isinstance(kafka, KafkaServer):
        pytest.skip("the embedded broker has no settings")
    file = tmp_path / "tables.py"
    file.write_text(f"from tests.streams.tables import build\n\nproject = build({topic_prefix!r})\n")
    table, log = f"{topic_prefix}.holders.v1", f"headrace.{topic_prefix}.fraud.log.v1"
    where = ("--kafka", kafka.bootstrap)

    assert cli("topics", "apply", file, *where).code == 0
    assert cli("topics", "apply", file, "--json", *where).json["differences"] == []
    with Admin(kafka.bootstrap) as admin:
        found = admin.found([table, log])
    assert found[table].config["cleanup.policy"] == "compact"
    assert found[table].config["delete.retention.ms"] == str(7 * DAY)
    assert (found[log].config["cleanup.policy"], found[log].config["retention.bytes"]) == ("delete", "-1")
    assert short_of(load(file).project, kafka.bootstrap) == []

    kafka.alter_topic(table, {"cleanup.policy": "delete", "delete.retention.ms": "1000"})
    kafka.alter_topic(log, {"cleanup.policy": "compact", "retention.bytes": "1000000"})
    # what a worker warns of when it starts
    short = short_of(load(file).project, kafka.bootstrap)
    told = {(d.topic, d.setting): d.fix for d in short}
    assert set(told) == {
        (table, "cleanup.policy"),
        (table, "delete.retention.ms"),
        (log, "cleanup.policy"),
        (log, "retention.bytes"),
    }
    assert "leave compacted=True out" in told[table, "cleanup.policy"]
    findings = cli("doctor", file, *where, "--redis", redis_url, "--json").json["findings"]
    levels = {(f["what"], f["found"]): f["level"] for f in findings}
    assert levels[log, "cleanup.policy is compact, the project needs delete"] == "error"
    assert levels[log, "retention.bytes is 1 MB a partition, the project needs no limit"] == "warning"
    assert levels[table, "cleanup.policy is delete, the project needs compact"] == "warning"


def test_doctor_says_what_waits_at_the_rate_of_the_last_day(
    cli: Cli, kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str
) -> None:
    file = project_file(tmp_path, topic_prefix)
    file.write_text(file.read_text().replace("absent=False)", "absent=False, max_pending=100)"))
    project = load(file).project
    for topic in wanted_topics(project, 2):
        kafka.create_topic(topic.name, topic.partitions)
    now = round(1000 * time.time())
    requests = project.models[0].spec.request.topic
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for k in range(60):
        producer.produce(requests, b"{}", timestamp=now - (2 * DAY if k < 20 else 0), partition=k % 2)
    assert producer.flush(60.0) == 0

    answer = cli("doctor", file, "--kafka", kafka.bootstrap, "--redis", redis_url, "--json")

    (finding,) = [f for f in answer.json["findings"] if f["what"] == "waiting predictions of fraud"]
    assert finding["found"].startswith("0.000463/s in the last day x 14d: 560, ")  # 40 of them
    assert "stands still at 100" in finding["found"]
    assert finding["level"] == "warning"
    assert 'vectors="log"' in finding["fix"]
