"""What a learner is asked to do, and how."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from river import (
    anomaly,
    cluster,
    compose,
    forest,
    imblearn,
    linear_model,
    multiclass,
    naive_bayes,
    preprocessing,
    tree,
)

from models.errors import NonFiniteScore, TaskRefused
from models.task import UNINFORMED, Task, learn, predicted, score, task_of
from tests.naming import steady


class Duck:
    """A learner that is not of River: only the verbs that it was given."""

    def __init__(self, answer: Any = 0.25) -> None:
        self.answer = answer
        self.learned: list[tuple[Any, ...]] = []


class Chooser(Duck):
    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.learned.append((x, y))

    def predict_one(self, x: dict[str, Any]) -> Any:
        return self.answer


class Weigher(Chooser):
    def predict_proba_one(self, x: dict[str, Any]) -> Any:
        return self.answer


class Watcher(Duck):
    def learn_one(self, x: dict[str, Any]) -> None:
        self.learned.append((x,))

    def score_one(self, x: dict[str, Any]) -> Any:
        return self.answer


class TaughtWatcher(Duck):
    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        self.learned.append((x, y))

    def score_one(self, x: dict[str, Any]) -> Any:
        return self.answer


def logistic() -> linear_model.LogisticRegression:
    return linear_model.LogisticRegression()


@pytest.mark.parametrize(
    ("learner", "label", "task"),
    [
        (logistic(), bool, Task.BINARY),
        (preprocessing.StandardScaler() | logistic(), bool, Task.BINARY),
        (tree.HoeffdingTreeClassifier(), bool, Task.BINARY),
        (tree.HoeffdingTreeClassifier(), str, Task.MULTICLASS),
        (forest.ARFClassifier(seed=1), int, Task.MULTICLASS),
        (multiclass.OneVsRestClassifier(logistic()), str, Task.MULTICLASS),
        (imblearn.RandomUnderSampler(logistic(), {True: 0.5, False: 0.5}, seed=1), bool, Task.BINARY),
        (linear_model.LinearRegression(), float, Task.REGRESSION),
        (linear_model.LinearRegression(), int, Task.REGRESSION),
        (preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=1), None, Task.ANOMALY),
        (anomaly.HalfSpaceTrees(seed=1), bool, Task.ANOMALY),
        (anomaly.QuantileFilter(anomaly.HalfSpaceTrees(seed=1), q=0.9), None, Task.ANOMALY),
        (Chooser(), bool, Task.BINARY),
        (Weigher(), int, Task.MULTICLASS),
        (Chooser(), str, Task.MULTICLASS),
        (Chooser(), int, Task.REGRESSION),
        (Chooser(), float, Task.REGRESSION),
        (Watcher(), None, Task.ANOMALY),
        (TaughtWatcher(), bool, Task.ANOMALY),
    ],
    ids=steady,
)
def test_the_task_follows_from_learner_and_label(learner: Any, label: type | None, task: Task) -> None:
    assert task_of(learner, label) is task


@pytest.mark.parametrize(
    ("learner", "label", "names", "fix"),
    [
        (logistic(), str, "LogisticRegression", "OneVsRestClassifier"),
        (logistic(), float, "LogisticRegression", "Regressor"),
        (logistic(), None, "no label", "declare a bool"),
        (linear_model.LinearRegression(), bool, "LinearRegression", "Classifier"),
        (preprocessing.StandardScaler(), bool, "StandardScaler", "put a learner behind it"),
        (cluster.KMeans(seed=1), bool, "KMeans", "put a learner behind it"),
        (anomaly.GaussianScorer(), float, "GaussianScorer", "HalfSpaceTrees"),
        (anomaly.QuantileFilter(anomaly.GaussianScorer(), q=0.9), float, "QuantileFilter", "HalfSpaceTrees"),
        (TaughtWatcher(), None, "TaughtWatcher", "declare one"),
        (Duck(), bool, "Duck", "River"),
        (Chooser(), None, "Chooser", "declare"),
        (Chooser(), bytes, "bytes", "declare"),
    ],
    ids=steady,
)
def test_a_learner_that_cannot_is_refused_by_name_with_what_would(
    learner: Any, label: type | None, names: str, fix: str
) -> None:
    with pytest.raises(TaskRefused, match=names) as refusal:
        task_of(learner, label)

    assert fix in refusal.value.fix


# -- scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [logistic, naive_bayes.GaussianNB, tree.HoeffdingTreeClassifier])
def test_a_learner_that_knows_nothing_says_a_half(make: Callable[[], Any]) -> None:
    assert score(make(), {"a": 1.0}, Task.BINARY) == UNINFORMED


def test_a_learner_that_never_saw_true_says_zero() -> None:
    learner = naive_bayes.GaussianNB()
    learn(learner, {"a": 1.0}, False, Task.BINARY)

    assert score(learner, {"a": 1.0}, Task.BINARY) == 0.0


def test_the_binary_score_is_the_probability_of_true() -> None:
    assert score(Weigher({True: 0.75, False: 0.25}), {}, Task.BINARY) == 0.75


@pytest.mark.parametrize(("answer", "said"), [(True, 1.0), (False, 0.0), (None, UNINFORMED)])
def test_a_classifier_without_probabilities_says_its_label(answer: bool | None, said: float) -> None:
    assert score(Chooser(answer), {}, Task.BINARY) == said


def test_many_classes_are_named_by_text() -> None:
    shares = score(Weigher({1: 0.25, 2: 0.75}), {}, Task.MULTICLASS)

    assert shares == {"1": 0.25, "2": 0.75}
    assert score(Chooser("red"), {}, Task.MULTICLASS) == {"red": 1.0}
    assert score(Chooser(None), {}, Task.MULTICLASS) == {}


def test_the_predicted_label_is_the_first_of_the_likeliest() -> None:
    assert predicted({"b": 0.25, "a": 0.375, "c": 0.375}) == "a"
    assert predicted({}) is None


def test_numbers_come_as_floats() -> None:
    assert type(score(Chooser(3), {}, Task.REGRESSION)) is float
    assert type(score(Watcher(1), {}, Task.ANOMALY)) is float


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "much"])
def test_what_is_no_finite_number_is_refused_by_name(bad: Any) -> None:
    for learner, task in (
        (Chooser(bad), Task.REGRESSION),
        (Watcher(bad), Task.ANOMALY),
        (Weigher({True: bad}), Task.BINARY),
        (Weigher({"a": bad}), Task.MULTICLASS),
    ):
        with pytest.raises(NonFiniteScore, match=type(learner).__name__):
            score(learner, {}, task)


# -- learning ------------------------------------------------------------------------------------------------


def test_a_detector_learns_without_the_label_unless_it_wants_it() -> None:
    watcher, taught = Watcher(), TaughtWatcher()

    learn(watcher, {"a": 1}, True, Task.ANOMALY)
    learn(taught, {"a": 1}, True, Task.ANOMALY)

    assert watcher.learned == [({"a": 1},)]
    assert taught.learned == [({"a": 1}, True)]


@pytest.mark.parametrize(
    "learner",
    [
        anomaly.HalfSpaceTrees(n_trees=2, height=2, window_size=5, seed=1),
        preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=2, height=2, window_size=5, seed=1),
        compose.Select("a") | anomaly.OneClassSVM(),
        anomaly.ThresholdFilter(anomaly.HalfSpaceTrees(seed=1), threshold=0.9),
    ],
    ids=steady,
)
def test_detectors_of_river_learn_and_score(learner: Any) -> None:
    for number in range(20):
        learn(learner, {"a": number / 20}, None, Task.ANOMALY)

    assert isinstance(score(learner, {"a": 0.5}, Task.ANOMALY), float)
