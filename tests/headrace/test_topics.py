"""`headrace topics apply` makes what is missing and tells how the rest differs."""

from __future__ import annotations

from pathlib import Path

from features.clock import MILLISECONDS
from headrace.loading import load
from headrace.topics import FOREVER, RETENTION, retentions, wanted_topics
from streams.admin import Admin
from streams.embedded import EmbeddedKafka
from tests.headrace.conftest import PAYMENTS, Cli
from tests.parts.broker import Broker

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
