"""River's own data sets through Kafka, join and learner: metrics and model are plain River's, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from river import datasets, evaluate, metrics
from river.linear_model import LinearRegression, LogisticRegression
from river.preprocessing import StandardScaler

from features import Source, keys
from models import Label, ModelSpec, Project
from models.canonical import digest
from models.snapshot import open_sealed
from streams.learn_stage import MONITOR
from streams.producer import Outgoing
from tests.parts.broker import Broker
from tests.streams.audit import fold_of_samples, model_digest
from tests.streams.rig import Rig, rig
from tests.streams.shop import HOUR, START

SECOND = 1_000
STANDARD = (metrics.LogLoss, metrics.MAE, metrics.RMSE, metrics.R2)  # kept of every model of the task


class Known(msgspec.Struct, frozen=True):
    """What is known of binary rows later."""

    row: int
    value: bool
    at: int


class Measured(msgspec.Struct, frozen=True):
    """What is known of rows with a number later."""

    row: int
    value: float
    at: int


class Task:
    """A data set of River's and what plain River makes of it."""

    def __init__(
        self, rows: Any, truth: type[msgspec.Struct], learner: Callable[[], Any], named: list[Any]
    ) -> None:
        self.rows: list[tuple[dict[Any, Any], Any]] = list(rows)
        self.truth: Any = truth
        self.learner = learner
        self.metrics = named
        first, _ = self.rows[0]
        columns = [(name, type(value)) for name, value in first.items()]
        self.event: Any = msgspec.defstruct(
            "Row", [("row", int), *columns, ("at", int)], frozen=True, module=__name__
        )
        self.columns = [name for name, _ in columns]

    def project(self, prefix: str) -> Project:
        rows = Source(
            f"{prefix}.rows.v1", self.event, id=self.event.row, time=self.event.at, key=self.event.row
        )
        truth = Source(f"{prefix}.truth.v1", self.truth, id=self.truth.row, time=self.truth.at)
        spec = ModelSpec(
            "plain",
            request=rows,
            inputs=[getattr(self.event, name) for name in self.columns],
            label=Label(truth, value=self.truth.value, within="1h"),
            learner=self.learner(),
            metrics=[metric for metric in self.metrics if type(metric) not in STANDARD],
        )
        return Project(prefix, spec)

    def records(self, project: Project) -> Iterator[Outgoing]:
        rows, truth = project.sources
        for k, (x, y) in enumerate(self.rows):
            t = START + k * SECOND
            event = msgspec.json.encode(self.event(row=k, at=t, **x))
            yield Outgoing(rows.topic, str(k).encode(), event, (), t)
            known = msgspec.json.encode(self.truth(row=k, value=y, at=t + HOUR // 2))
            yield Outgoing(truth.topic, str(k).encode(), known, (), t + HOUR // 2)

    def plain(self) -> tuple[str, dict[str, str]]:
        """The digest of River's model after River's own progressive validation, and the metrics of that."""
        found, made = {}, set()
        for metric in self.metrics:
            learner = self.learner()
            evaluate.progressive_val_score(self.rows, learner, kept := metric.clone())
            found[type(metric).__name__] = repr(float(kept.get()))
            made.add(digest(learner))
        (only,) = made
        return only, found


def phishing() -> Task:
    return Task(
        datasets.Phishing(),
        Known,
        lambda: StandardScaler() | LogisticRegression(),
        [metrics.LogLoss(), metrics.Accuracy(), metrics.F1()],
    )


def trump_approval() -> Task:
    return Task(
        datasets.TrumpApproval(),
        Measured,
        lambda: StandardScaler() | LinearRegression(intercept_lr=0.1),
        [metrics.MAE(), metrics.RMSE(), metrics.R2()],
    )


TASKS = {"phishing": phishing, "trump_approval": trump_approval}


async def served(made: Rig) -> tuple[str, dict[str, str]]:
    """The digest of the newest snapshot, and the progressive metrics that were committed with it."""
    tag = made.deployment.groups[made.model.samples_topic][0].tag
    key = made.key
    data = await made.store.get(keys.model(tag))
    cells = dict(await made.store.fields(keys.kept(tag)))
    assert data is not None
    monitor = open_sealed(cells[MONITOR], [key], ("models.monitor", "models.task")).learner
    figures = monitor.progressive.figures()
    return digest(open_sealed(data, [key]).learner), {name: repr(value) for name, value in figures.items()}


@pytest.mark.parametrize("kills", [0, 2])
@pytest.mark.parametrize("name", list(TASKS))
async def test_the_model_and_its_metrics_are_those_of_plain_river(
    kafka: Broker, redis_url: str, tmp_path: Path, topic_prefix: str, name: str, kills: int
) -> None:
    task = TASKS[name]()
    project = task.project(topic_prefix)
    text = (
        "from tests.streams.test_river_parity import TASKS\n\n"
        f"project = TASKS[{name!r}]().project({topic_prefix!r})\n"
    )
    ones = dict.fromkeys((source.topic for source in project.sources), 1)
    async with rig(project, text, tmp_path, kafka, redis_url, ones) as made:
        records = list(task.records(project))
        part = len(records) // (kills + 1)
        for kill in range(kills):
            await made.produce(records[kill * part : (kill + 1) * part])
            worker = made.start()

            async def advanced(least: int = kill * part + part // 3) -> bool:
                return await made.folded() > least

            await made.until(advanced, worker)
            worker.kill()
        await made.produce(records[kills * part :])
        await made.finish(made.start())

        river_digest, river_metrics = task.plain()
        assert fold_of_samples(made.log, made.model).version == len(task.rows)
        assert model_digest(fold_of_samples(made.log, made.model)) == river_digest
        found_digest, found_metrics = await served(made)
        assert found_digest == river_digest
        assert {metric: found_metrics[metric] for metric in river_metrics} == river_metrics
