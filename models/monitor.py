"""How well a model does, sample by sample, beside what knowing nothing but the labels would do.

Two lines of figures, both functions of the samples alone:

- *served*: the scores that were logged when they were answered, by who asked for them (`api` or `stream`);
- *progressive*: what the learner said about a logged vector just before it learned it.

The baseline beside each line predicts from the labels before: the share of True, of each class, or the mean.
A correction was scored when its prediction was, so it is learned but not scored again.

Everything here is picklable and goes on exactly where it stopped: it is saved beside the learner, and is no
part of the learner's digest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from river import metrics as river_metrics
from river import stats

from models.records import Sample, Scalar, Score
from models.task import Task, predicted

__all__ = ["Board", "Monitor", "Ranks"]

_river: Any = river_metrics  # River types the bases of its metrics, not their constructors
_LARGEST = 1e100  # of a score
_LOSSES = ("LogLoss", "CrossEntropy", "MAE")


class Ranks:
    """How scores rank the Trues above the Falses, counted in bins: integers, whatever the order of samples.

    River's ROCAUC has ten thresholds evenly over [0, 1]: the scores of rare events all fall below the first
    one, and anomaly scores may lie outside. Bins of 1/64 of the distance to the nearer of 0 and 1 (beyond 1,
    to 0) tell scores apart wherever they crowd.

    >>> ranks = Ranks()
    >>> for label, score in [(False, 0.001), (True, 0.002), (False, 0.004), (True, 0.9)]:
    ...     ranks.update(label, score)
    >>> ranks.roc_auc(), ranks.average_precision()
    (0.75, 0.8333333333333333)
    """

    def __init__(self) -> None:
        self._bins: dict[int, list[int]] = {}

    def update(self, label: bool, score: float) -> None:
        """Counts one score."""
        counts = self._bins.setdefault(_bin(score), [0, 0])
        counts[bool(label)] += 1

    def roc_auc(self) -> float:
        """The chance that a True scores above a False, ties half; 0.5 while one of the two is missing."""
        below = twice = positives = 0
        for _, (negative, positive) in sorted(self._bins.items()):
            twice += positive * (2 * below + negative)
            below += negative
            positives += positive
        return twice / (2 * below * positives) if below and positives else 0.5

    def average_precision(self) -> float:
        """The precision at each True, averaged; ties share theirs, and no True gives 0.

        Its baseline is the share of True.
        """
        seen = hits = 0
        parts = []
        for _, (negative, positive) in sorted(self._bins.items(), reverse=True):
            seen += negative + positive
            hits += positive
            parts.append(positive * hits / seen)
        return math.fsum(parts) / hits if hits else 0.0


def _bin(score: float) -> int:
    """A bin number that rises with the score."""
    if 0.5 < score < 1.0:
        return -_magnitude(1.0 - score)
    if score >= 1.0:
        return 4_096 + _magnitude(score)  # above the bin of the largest number below 1
    if score > 0.0:
        return _magnitude(score)
    if score == 0.0:
        return -70_000  # below the bin of the smallest number
    return -140_000 - _magnitude(-score)


def _magnitude(size: float) -> int:
    mantissa, exponent = math.frexp(size)
    return 64 * exponent + int(128 * mantissa) - 64


class _Prior:
    """Predicts from the labels before, and nothing else."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._counts: Counter[Scalar] = Counter()
        self._mean = stats.Mean()

    def score(self) -> Score:
        """The share of True and of each class, each label counted once more than seen; or the mean."""
        if self._task is Task.REGRESSION:
            return float(self._mean.get())
        seen = self._counts.total()
        if self._task is not Task.MULTICLASS:
            return (self._counts[True] + 1) / (seen + 2)
        return {str(label): (n + 1) / (seen + len(self._counts)) for label, n in self._counts.items()}

    def learn(self, label: Any) -> None:
        if self._task is Task.REGRESSION:
            self._mean.update(label)
        else:
            self._counts[label] += 1

    @property
    def positive_share(self) -> float | None:
        seen = self._counts.total()
        return self._counts[True] / seen if seen else None


class _Metrics:
    """River metrics by name, told apart once: some take scores, some the label that a score stands for."""

    def __init__(self, metrics: Sequence[Any], task: Task) -> None:
        self.named = {type(metric).__name__: metric for metric in metrics}
        if len(self.named) < len(metrics):
            names = [type(metric).__name__ for metric in metrics]
            raise ValueError(f"metrics {names}: give each name once")
        self._decide = _likeliest if task is Task.MULTICLASS else _above_half
        self._of_scores = [metric for metric in metrics if not getattr(metric, "requires_labels", False)]
        self._of_labels = [metric for metric in metrics if getattr(metric, "requires_labels", False)]

    def update(self, label: Scalar, score: Any) -> None:
        for metric in self._of_scores:
            metric.update(label, score)
        for metric in self._of_labels:
            metric.update(label, self._decide(score))

    def values(self) -> dict[str, float]:
        return {name: float(metric.get()) for name, metric in self.named.items()}


def _above_half(score: float) -> bool:
    return score > 0.5


def _likeliest(score: dict[str, float]) -> str | None:
    return predicted(score)


class Board:
    """The figures of one line of scores, and those of the baseline on the same samples.

    Args:
        metrics: River metrics to keep besides those of the task; each is cloned, and named by its class.

    Raises:
        ValueError: two of the metrics have the same name.
    """

    def __init__(self, task: Task, metrics: Sequence[river_metrics.base.Metric] = ()) -> None:
        self._multiclass = task is Task.MULTICLASS
        self._metrics = _Metrics([*_of_task(task), *(metric.clone() for metric in metrics)], task)
        self._baseline = _Metrics(_of_baseline(task), task)
        self._ranks = Ranks() if task in (Task.BINARY, Task.ANOMALY) else None
        self._prior = _Prior(task)
        self.samples = 0
        """Scored samples."""
        self.unscored = 0
        """Samples whose prediction held no score of this task."""

    def update(self, label: Scalar, score: Score) -> None:
        """Scores one prediction against its label, then shows the label to the baseline."""
        if self._multiclass:
            label = str(label)
        if (
            score is not None
            and score != {}
            and isinstance(score, dict) == self._multiclass
            and _small(score)
        ):
            self._score(label, score)
        else:
            self.unscored += 1
        self._prior.learn(label)

    def _score(self, label: Scalar, score: Any) -> None:
        self.samples += 1
        self._metrics.update(label, score)
        if self._ranks is not None:
            self._ranks.update(bool(label), score)
        if self._baseline.named and (prior := self._prior.score()) != {}:
            self._baseline.update(label, prior)

    def figures(self) -> dict[str, float]:
        """The value of every metric, by name."""
        named = self._metrics.values()
        if self._ranks is not None:
            named |= {"ROCAUC": self._ranks.roc_auc(), "AveragePrecision": self._ranks.average_precision()}
        return named

    def baseline(self) -> dict[str, float]:
        """The values that the baseline reached, for the metrics in which it is worth knowing."""
        named = self._baseline.values()
        share = self._prior.positive_share
        if self._ranks is not None and share is not None:
            named |= {"ROCAUC": 0.5, "AveragePrecision": share}
        return named

    def gain(self) -> float | None:
        """The share of the baseline's loss that is gone: 1 is perfect, below 0 worse; None of no loss."""
        figures, baseline = self.figures(), self.baseline()
        for name in _LOSSES:
            if baseline.get(name):
                return 1.0 - figures[name] / baseline[name]
        return None


class Monitor:
    """The figures of a model, served and progressive."""

    def __init__(self, task: Task, metrics: Sequence[river_metrics.base.Metric] = ()) -> None:
        self.task = task
        self.served = {"api": Board(task, metrics), "stream": Board(task, metrics)}
        self.progressive = Board(task, metrics)
        self.kinds: Counter[str] = Counter()
        """Samples by kind: label, absent, correction."""

    def on_served(self, sample: Sample) -> None:
        """Scores the prediction that was logged with the sample."""
        self.kinds[sample.kind] += 1
        if sample.kind != "correction":
            self.served[sample.origin].update(sample.label, sample.score)

    def on_progressive(self, sample: Sample, score: Score) -> None:
        """Scores what the learner says before it learns the sample."""
        if sample.kind != "correction":
            self.progressive.update(sample.label, score)

    @property
    def coverage(self) -> float | None:
        """The share of samples with a label of their own, the others being taken for absent; None of none."""
        both = self.kinds["label"] + self.kinds["absent"]
        return self.kinds["label"] / both if both else None


def _small(score: float | dict[str, float]) -> bool:
    """Whether its square can be summed up: a score that cannot is none."""
    return isinstance(score, dict) or -_LARGEST <= score <= _LARGEST


def _of_task(task: Task) -> list[Any]:
    if task is Task.BINARY:
        return [_river.LogLoss()]
    if task is Task.MULTICLASS:
        return [_river.Accuracy(), _river.CrossEntropy()]
    if task is Task.REGRESSION:
        return [_river.MAE(), _river.RMSE(), _river.R2()]
    return []


def _of_baseline(task: Task) -> list[Any]:
    # The R2 of a mean is 0 by definition.
    return [metric for metric in _of_task(task) if not isinstance(metric, _river.R2)]
