"""What a learner is asked to do, and the one way to ask it.

Learners differ in their verbs: `predict_proba_one`, `predict_one`, `score_one`, a `learn_one` with or without
a label. The task is told apart once, at load; from then on there are `score` and `learn`, and nothing else in
Headrace calls a learner.
"""

from __future__ import annotations

import enum
import inspect
import math
from functools import cache
from typing import Any, Final, TypeAlias

from river import base
from river.compose import Pipeline

from models.errors import NonFiniteScore, TaskRefused

Score: TypeAlias = float | dict[str, float]
"""A number; for more than two classes the probability of each (an integer class is named by its digits)."""

UNINFORMED: Final = 0.5
"""The binary score of a learner that has seen no label yet."""


class Task(enum.Enum):
    """What a learner is asked to do."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"
    ANOMALY = "anomaly"


# -- at load -------------------------------------------------------------------------------------------------


def task_of(learner: object, label_type: type | None) -> Task:
    """The task of a learner under a label of this type; None says that no label is declared.

    River's learners are known by their base type, pipelines by that of their last step. Any other object goes
    by its verbs: `score_one` without `predict_one` detects anomalies; else a bool label is binary, a str one
    (or an int, given `predict_proba_one`) multiclass, and any other number regression.

    Raises:
        TaskRefused: the learner cannot do what the label asks for; the message says what would.
    """
    last = _last_step(learner)
    if isinstance(last, base.Classifier):
        return _classification(last, label_type)
    if isinstance(last, base.Regressor):
        if label_type in (int, float):
            return Task.REGRESSION
        raise _refused(
            last, label_type, "it predicts numbers", "use a Classifier, or a label that is a number"
        )
    if isinstance(last, base.AnomalyDetector | base.SupervisedAnomalyDetector | base.AnomalyFilter):
        return _detection(last, label_type)
    if isinstance(last, base.Base):
        why = "it neither classifies, nor regresses, nor detects anomalies"
        raise _refused(
            last, label_type, why, "put a learner behind it: ... | linear_model.LogisticRegression()"
        )
    return _by_verbs(last, label_type)


def _classification(last: base.Classifier, label_type: type | None) -> Task:
    if label_type is bool:
        return Task.BINARY
    if label_type not in (int, str):
        raise _refused(
            last, label_type, "it predicts classes", "declare a bool, str or int label, or use a Regressor"
        )
    if not last._multiclass:  # noqa: SLF001  # River has no public name for it
        raise _refused(
            last,
            label_type,
            "it tells two classes apart",
            "declare a bool label, or wrap it: multiclass.OneVsRestClassifier(...)",
        )
    return Task.MULTICLASS


def _detection(last: Any, label_type: type | None) -> Task:
    if not _scores_without_label(last):
        why = "it scores the label itself, which nobody knows when the request is answered"
        raise _refused(
            last, label_type, why, "use an AnomalyDetector, such as anomaly.HalfSpaceTrees(seed=1)"
        )
    if label_type is None and _learns_from_label(last):
        raise _refused(last, label_type, "it learns from labels", "declare one, or use an AnomalyDetector")
    return Task.ANOMALY


def _by_verbs(last: Any, label_type: type | None) -> Task:
    verbs = {
        verb for verb in ("learn_one", "predict_one", "predict_proba_one", "score_one") if hasattr(last, verb)
    }
    if "learn_one" not in verbs or len(verbs) == 1:
        raise _refused(
            last, label_type, "it has no learn_one with predict_one or score_one", "use a River learner"
        )
    if verbs == {"learn_one", "score_one"}:
        return _detection(last, label_type)
    if label_type is bool:
        return Task.BINARY
    if label_type is str or (label_type is int and "predict_proba_one" in verbs):
        return Task.MULTICLASS
    if label_type in (int, float) and "predict_one" in verbs:
        return Task.REGRESSION
    raise _refused(last, label_type, "it predicts labels", "declare a bool, str, int or float label")


def _refused(last: object, label_type: type | None, why: str, fix: str) -> TaskRefused:
    label = "no label" if label_type is None else f"a {label_type.__name__} label"
    return TaskRefused(
        f"{type(last).__qualname__} cannot learn from {label}", where="learner=", why=why, fix=fix
    )


# -- at each event -------------------------------------------------------------------------------------------


def score(learner: Any, x: dict[str, Any], task: Task) -> Score:
    """The prediction for x.

    Binary: the probability of True; a learner that knows no class yet says `UNINFORMED`, one that never saw
    True says 0. A classifier without probabilities says 1 or 0 of its label. Multiclass: the probabilities of
    the classes seen so far. Regression: the number. Anomaly: the score, high for what is odd.

    Raises:
        NonFiniteScore: the learner answered NaN, an infinity, or no number at all, or failed to compute one.
    """
    try:
        return _score(learner, x, task)
    except (ArithmeticError, ValueError) as error:
        raise NonFiniteScore(
            f"{type(_last_step(learner)).__qualname__} raised {type(error).__name__}: {error}",
            why="a number was too large for its arithmetic",
            fix="scale its inputs (preprocessing.StandardScaler() | ...)",
        ) from error


def _score(learner: Any, x: dict[str, Any], task: Task) -> Score:
    if task is Task.BINARY:
        return _finite(_probability_of_true(learner, x), learner)
    if task is Task.MULTICLASS:
        probabilities = _probabilities(learner, x)
        return {str(label): _finite(share, learner) for label, share in probabilities.items()}
    if task is Task.REGRESSION:
        return _finite(learner.predict_one(x), learner)
    return _finite(learner.score_one(x), learner)


def predicted(probabilities: dict[str, float]) -> str | None:
    """The label that a multiclass score stands for: the likeliest, the first of equals; None of none."""
    return max(probabilities, key=probabilities.__getitem__, default=None)


def learn(learner: Any, x: dict[str, Any], y: bool | int | str | float | None, task: Task) -> None:
    """Teaches the learner one sample; x is handed over, since some learners keep it."""
    if task is Task.ANOMALY and not _learns_from_label(learner):
        learner.learn_one(x)
    else:
        learner.learn_one(x, y)


def _probabilities(learner: Any, x: dict[str, Any]) -> dict[Any, float]:
    kind: type = type(_last_step(learner))
    if _gives_probabilities(kind):
        probabilities: dict[Any, float] = learner.predict_proba_one(x)
        return probabilities
    label = learner.predict_one(x)
    return {} if label is None else {label: 1.0}


def _probability_of_true(learner: Any, x: dict[str, Any]) -> float:
    probabilities = _probabilities(learner, x)
    return probabilities.get(True, 0.0) if probabilities else UNINFORMED


def _finite(value: Any, learner: object) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise NonFiniteScore(
            f"{type(_last_step(learner)).__qualname__} answered {value!r}, which is no finite number",
            why="a sum inside it overflowed, or it divided by zero",
            fix="scale its inputs (preprocessing.StandardScaler() | ...), and roll back to a version before",
        )
    return number


# -- what kind of learner ------------------------------------------------------------------------------------


def _last_step(learner: Any) -> Any:
    while isinstance(learner, Pipeline) and learner.steps:
        learner = next(reversed(learner.steps.values()))
    return learner


@cache
def _gives_probabilities(kind: type) -> bool:
    verb = getattr(kind, "predict_proba_one", None)
    return verb is not None and verb is not base.Classifier.predict_proba_one


def _learns_from_label(learner: Any) -> bool:
    if isinstance(learner, Pipeline):
        return True  # it hands the label to the steps that want it
    if isinstance(learner, base.AnomalyFilter):
        return _learns_from_label(learner.anomaly_detector)
    kind: type = type(learner)
    return _takes_two(kind, "learn_one")


def _scores_without_label(learner: Any) -> bool:
    if isinstance(learner, base.AnomalyFilter):
        return _scores_without_label(learner.anomaly_detector)
    kind: type = type(learner)
    return not _takes_two(kind, "score_one")


@cache
def _takes_two(kind: type, verb: str) -> bool:
    """Whether the method needs a second argument beside x."""
    parameters = list(inspect.signature(getattr(kind, verb)).parameters.values())[2:]
    return any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
