"""`headrace topics apply` makes what is missing and tells how the rest differs."""

from __future__ import annotations

import time
from pathlib import Path

from confluent_kafka import Producer

from features.clock import MILLISECONDS
from headrace.loading import load
from headrace.topics import FOREVER, RETENTION, differences, retentions, short_of, wanted_topics
from streams.admin import Admin, Found
from streams.embedded import EmbeddedKafka
from tests.headrace.conftest import PAYMENTS, Cli
from tests.parts.broker import Broker
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
