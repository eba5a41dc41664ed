"""The topics of a project: which there should be, how they should be kept, and how what there is differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from features.clock import MILLISECONDS, duration_text
from features.plan import FOREVER as UNBOUNDED
from models import Project
from models.deployment import topics_of
from models.outcomes import Outcomes
from models.topics import dead_letter_topic
from streams.admin import Admin, Found, Topic
from streams.security import Kafka

from .output import size

_WEEK = MILLISECONDS["w"]
_LETTERS = 30 * MILLISECONDS["d"]
FOREVER = -1
DELETE, COMPACT = "delete", "compact"
AHEAD = "message.timestamp.after.max.ms"
RETENTION = "retention.ms"
SIZE = "retention.bytes"
CLEANUP = "cleanup.policy"
TOMBSTONES = "delete.retention.ms"
KEEPING = (
    RETENTION,
    SIZE,
    CLEANUP,
    TOMBSTONES,
)  # what decides whether a record is still there when it is needed


class Difference(NamedTuple):
    """A topic that exists, and is not as the project needs it."""

    topic: str
    setting: str
    wanted: str
    found: str
    fatal: bool  # whether the project cannot work with it
    fix: str


class Applied(NamedTuple):
    """What became of a project's topics."""

    created: list[Topic]
    kept: list[str]
    differences: list[Difference]
    left_out: list[str]  # settings that the broker does not know


def wanted_topics(project: Project, partitions: int | None = None) -> list[Topic]:
    """Returns every topic of a project, dead letters included.

    Args:
        project: whose topics they are.
        partitions: of each source; four where nothing is said.
    """
    given = {} if partitions is None else {source.topic: partitions for source in project.sources}
    counts = topics_of(project, given)
    retention = retentions(project)
    ahead = {
        source.topic: str(source.ahead) for source in project.sources if not isinstance(source, Outcomes)
    }
    tables = {source.topic for source in project.sources if source.compacted}
    topics: list[Topic] = []
    for name, count in counts.items():
        if name in tables:
            config = {CLEANUP: COMPACT, TOMBSTONES: str(_WEEK)}
        else:
            config = {CLEANUP: DELETE, RETENTION: str(retention[name]), SIZE: str(FOREVER)}
        if name in ahead:
            config |= {"message.timestamp.type": "CreateTime", AHEAD: ahead[name]}
        topics.append(Topic(name, count, config))
    kept = {CLEANUP: DELETE, RETENTION: str(_LETTERS)}
    return [*topics, *(Topic(dead_letter_topic(name), 1, kept) for name in counts)]


def retentions(project: Project) -> dict[str, int]:
    """Returns how long each topic must be kept, in milliseconds; -1 is for ever.

    A source: as long as a window reaches back, and as a label may take; a compacted one for ever. A model's log: as
    long as a label may take; where vectors wait in it alone also as long as a correction may, where these are learned,
    and a week in which its labels may stand still. Its samples: for ever, since any version is rebuilt from them.
    """
    horizon = {
        model.name: model.spec.label.within + model.spec.label.source.lateness if model.spec.label else 0
        for model in project.models
    }
    kept: dict[str, int] = {}
    for source in project.sources:
        reaches = [plan.retain for plan in project.plans_over(source)]  # lateness included
        asked = [horizon[m.name] for m in (*project.requested_by(source), *project.labelled_by(source))]
        longest = max(reaches, default=source.lateness)
        always = source.compacted or longest >= UNBOUNDED
        kept[source.topic] = FOREVER if always else max(_WEEK, longest + max(asked, default=0))
    for model in project.models:
        label = model.spec.label
        corrections = label.within if label is not None and label.learn_corrections else 0
        alone = corrections + _WEEK if label is not None and label.vectors == "log" else 0
        kept[model.log_topic] = max(_WEEK, horizon[model.name] + alone)
        kept[model.samples_topic] = FOREVER
    return kept


def differences(wanted: list[Topic], found: Mapping[str, Found]) -> list[Difference]:
    """Returns how the topics that exist differ from those that are wanted."""
    out: list[Difference] = []
    for topic in wanted:
        there = found.get(topic.name)
        if there is None:
            continue
        if there.partitions != topic.partitions:
            out.append(
                Difference(
                    topic.name,
                    "partitions",
                    str(topic.partitions),
                    str(there.partitions),
                    topic.name.endswith(".samples.v1") and there.partitions != 1,
                    "use --partitions with that number, or give the source a new version",
                )
            )
        looks = (_cleanup, _time(RETENTION), _time(TOMBSTONES), _size, _ahead)
        out.extend(filter(None, (look(topic, there) for look in looks)))
    return out


def _cleanup(topic: Topic, there: Found) -> Difference | None:
    """Returns what is wrong where a log that is needed whole is compacted, or a table is not, or loses old keys."""
    if not _both_have(CLEANUP, topic, there):
        return None
    need, have = topic.config[CLEANUP], there.config[CLEANUP].replace(" ", "")
    if need == have or (need == DELETE and COMPACT not in have.split(",")):
        return None
    fix = _alter(topic.name, CLEANUP, need)
    if not topic.name.startswith("headrace."):
        fix += "; or " + (
            "leave compacted=True out of its source" if need == COMPACT else "give its source compacted=True"
        )
    # what compaction takes of a log that is needed whole is gone; a table that is not compacted grows, or forgets
    return Difference(topic.name, CLEANUP, need, have, need == DELETE, fix)


def _time(setting: str) -> Callable[[Topic, Found], Difference | None]:
    def shorter(topic: Topic, there: Found) -> Difference | None:
        if not _both_have(setting, topic, there):
            return None
        need, have = int(topic.config[setting]), int(there.config[setting])
        if have == FOREVER or (need != FOREVER and have >= need):
            return None
        return Difference(
            topic.name, setting, _span(need), _span(have), False, _alter(topic.name, setting, need)
        )

    return shorter


def _size(topic: Topic, there: Found) -> Difference | None:
    """Returns a limit of bytes: whether it leaves the time that is needed depends on how much comes."""
    if not _both_have(SIZE, topic, there) or int(there.config[SIZE]) == FOREVER:
        return None
    have = f"{size(int(there.config[SIZE]))} a partition"
    return Difference(topic.name, SIZE, "no limit", have, False, _alter(topic.name, SIZE, FOREVER))


def _ahead(topic: Topic, there: Found) -> Difference | None:
    if not _both_have(AHEAD, topic, there):
        return None
    need, have = int(topic.config[AHEAD]), int(there.config[AHEAD])
    if have <= need or there.config.get("message.timestamp.type") == "LogAppendTime":
        return None
    fix = _alter(topic.name, AHEAD, need)
    return Difference(topic.name, AHEAD, _span(need), "any" if have > 1 << 60 else _span(have), False, fix)


def _both_have(setting: str, topic: Topic, there: Found) -> bool:
    return setting in topic.config and setting in there.config


def _alter(topic: str, setting: str, value: object) -> str:
    return (
        f"kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {setting}={value}"
    )


def _span(ms: int) -> str:
    return "for ever" if ms == FOREVER else duration_text(ms)


def short_of(project: Project, bootstrap: Kafka) -> list[Difference]:
    """Returns how topics are kept other than the project needs, so that it would miss records.

    Raises:
        StreamsError: the broker does not answer.
    """
    wanted = wanted_topics(project)
    with Admin(bootstrap) as admin:
        found = admin.found([topic.name for topic in wanted])
    return [difference for difference in differences(wanted, found) if difference.setting in KEEPING]


def apply(
    project: Project, bootstrap: Kafka, *, partitions: int | None = None, dry_run: bool = False
) -> Applied:
    """Makes the topics that are missing and tells how the others differ.

    Raises:
        StreamsError: the broker does not answer, or refuses a topic.
    """
    wanted = wanted_topics(project, partitions)
    with Admin(bootstrap) as admin:
        found = admin.found([topic.name for topic in wanted])
        missing = [topic for topic in wanted if topic.name not in found]
        left_out = [] if dry_run else admin.create(missing)
        kept = [topic.name for topic in wanted if topic.name in found]
        return Applied(missing, kept, differences(wanted, found), left_out)
