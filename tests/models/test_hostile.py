"""After a hostile stream every number of every model is finite.

What was left out is what a look after each sample would have left out.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable
from math import inf, isfinite, nan
from typing import Any

import numpy as np
import pytest
from river import (
    anomaly,
    feature_extraction,
    forest,
    linear_model,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    stats,
    tree,
)

from models import undo
from models.arithmetic import clear, dump, loaded, went_wrong
from models.canonical import digest
from models.errors import NonFiniteScore
from models.learner import LARGEST, Learner
from models.records import Sample
from models.task import Task, learn, score
from tests.models.test_learner import sample

NAMES = ("a", "b", "c")
SAMPLES = 400
HOSTILE = (
    LARGEST,
    -LARGEST,
    0.99 * LARGEST,
    1e99,
    5e-324,
    -0.0,
    1e-300,
    -1e80,
    nan,
    inf,
    -inf,
    1e308,
    2**62,
    10**90,
)


class Cube:
    """Overflows."""

    def __init__(self) -> None:
        self.sums: list[float] = [0.0]

    def learn_one(self, x: dict[str, float], y: bool) -> None:
        self.sums[0] += 1.0
        for value in x.values():
            self.sums[0] += value * value * value * value * 1e-300

    def predict_one(self, x: dict[str, float]) -> bool:
        return self.sums[0] ** 3 > 0.0


class Root(Cube):
    """Takes the root of what may be negative: an error, half-way."""

    def learn_one(self, x: dict[str, float], y: bool) -> None:
        super().learn_one(x, y)
        self.sums[0] += x["a"] ** 3.5 if x["a"] >= 0 else x["a"] ** 4


class Cleared(Cube):
    """Overflows, and then lets NumPy clear the flags."""

    def __init__(self) -> None:
        super().__init__()
        self.array = np.zeros(2)

    def learn_one(self, x: dict[str, float], y: bool) -> None:
        super().learn_one(x, y)
        self.array = self.array + 1.0


MODELS: dict[str, tuple[Task, Callable[[], Any]]] = {
    "scaled": (Task.BINARY, lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression()),
    "plain": (Task.REGRESSION, linear_model.LinearRegression),
    "unclipped": (Task.REGRESSION, lambda: linear_model.LinearRegression(clip_gradient=1e300)),
    "adam": (
        Task.REGRESSION,
        lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(optimizer=optim.Adam()),
    ),
    "bayesian": (Task.REGRESSION, linear_model.BayesianLinearRegression),
    "gaussian": (Task.BINARY, naive_bayes.GaussianNB),
    "tree": (Task.BINARY, tree.HoeffdingTreeClassifier),
    "regressor": (Task.REGRESSION, tree.HoeffdingTreeRegressor),
    "neighbours": (Task.REGRESSION, neighbors.KNNRegressor),
    "adaptive": (Task.BINARY, lambda: preprocessing.AdaptiveStandardScaler() | linear_model.LogisticRegression()),
    "robust": (Task.BINARY, lambda: preprocessing.RobustScaler() | linear_model.LogisticRegression()),
    "polynomial": (
        Task.BINARY,
        lambda: feature_extraction.PolynomialExtender(4) | linear_model.LogisticRegression(),
    ),
    "forest": (Task.BINARY, lambda: forest.ARFClassifier(n_models=2, seed=1)),
    "anomaly": (
        Task.ANOMALY,
        lambda: preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=3, height=4, seed=1),
    ),
    "cube": (Task.BINARY, Cube),
    "root": (Task.BINARY, Root),
    "cleared": (Task.BINARY, Cleared),
}  # fmt: skip


LATE = {"bayesian", "cleared"}
"""Models whose NumPy hides what went wrong until somebody looks."""


def hostile(task: Task, count: int = SAMPLES) -> list[Sample]:
    """Samples of which one in twenty has a slot or a label that is legal JSON, or is not even that."""
    chance = random.Random(5)
    found = []
    for k in range(count):
        vector: list[Any] = [chance.gauss(50.0, 10.0) for _ in NAMES]
        label: Any = vector[1] > 50.0 if task is not Task.REGRESSION else vector[1]
        if chance.random() < 0.05:
            vector[chance.randrange(3)] = chance.choice(HOSTILE)
            if task is Task.REGRESSION and chance.random() < 0.3:
                label = chance.choice(HOSTILE)
        found.append(sample(k, vector, label, logged=chance.choice([0.5, 1e308, -1e200])))
    return found


def shown(one: Sample) -> dict[str, Any] | None:
    """What a model may be shown of a sample; None where that is nothing."""
    numbers = [*one.vector, one.label]
    within = all(-LARGEST <= n <= LARGEST for n in numbers if isinstance(n, float))
    if within and all(-(2**63) <= n < 2**63 for n in numbers if isinstance(n, int)):
        return dict(zip(NAMES, one.vector, strict=True))
    return None


def learner_of(name: str) -> Learner:
    task, make = MODELS[name]
    return Learner(name, make(), task, NAMES, "f")


def by_looking(name: str, samples: list[Sample]) -> tuple[Any, int]:
    """The model that a copy before, and a look after, each sample makes; and how many it took."""
    task, make = MODELS[name]
    model, taken = make(), 0
    known = dump(model)
    for one in samples:
        x = shown(one)
        if x is None:
            continue
        with contextlib.suppress(NonFiniteScore):
            score(model, x, task)
        try:
            with np.errstate(all="ignore"):
                learn(model, x, one.label, task)
        except (ArithmeticError, ValueError):
            model = loaded(known.data)
            continue
        now = dump(model)
        if now.numbers + now.states > known.numbers + known.states:
            model = loaded(known.data)
            continue
        known, taken = now, taken + 1
    return model, taken


@pytest.mark.parametrize("name", MODELS)
def test_every_number_of_a_model_is_finite_after_a_hostile_stream(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = hostile(MODELS[name][0])
    model, taken = by_looking(name, samples)
    learner = learner_of(name)
    fresh = dump(learner.model)

    for offset, one in enumerate(samples):
        learner.on_sample(one, offset)
    at_once = learner.version
    learner.settle()
    left = dump(learner.model)

    assert at_once == learner.version or name in LATE
    assert (left.numbers, left.states) <= (fresh.numbers, fresh.states)
    assert (digest(learner.model), learner.version) == (digest(model), taken)
    for one in hostile(Task.BINARY, 50):
        x = shown(one)
        if x is None:
            continue
        said = learner.ask(learner.model, x)
        assert said is None or isfinite(said)  # type: ignore[arg-type]
    boards = (learner.monitor.progressive, *learner.monitor.served.values())
    assert all(
        isfinite(value)
        for board in boards
        for value in (*board.figures().values(), *board.baseline().values())
    )


@pytest.mark.parametrize("name", ["unclipped", "regressor", "bayesian", "cube", "root", "cleared"])
def test_what_is_left_out_does_not_depend_on_when_copies_are_made_or_on_a_restart(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = hostile(MODELS[name][0], 300)
    digests = set()
    for every, restart in ((1, None), (7, 150), (10_000, 220)):
        monkeypatch.setattr(undo, "EVERY", every)
        learner = learner_of(name)
        for offset, one in enumerate(samples):
            if offset == restart:
                learner.settle()
                resumed = learner_of(name)
                model, monitor = copy.deepcopy(learner.model), copy.deepcopy(learner.monitor)
                resumed.resume(model, learner.version, learner.position, monitor)
                learner = resumed
            learner.on_sample(one, offset)
        learner.settle()
        digests.add((digest(learner.model), learner.version))

    assert len(digests) == 1


def test_some_of_these_streams_do_ruin_a_model_that_takes_every_sample() -> None:
    """Or the tests above would prove nothing."""
    ruined = set()
    for name, (task, make) in MODELS.items():
        model = make()
        fresh = dump(model).numbers
        for one in hostile(task):
            x = shown(one)
            if x is None:
                continue
            try:
                with np.errstate(all="ignore"):
                    learn(model, x, one.label, task)
            except ArithmeticError:
                ruined.add(name)
        if dump(model).numbers > fresh:
            ruined.add(name)

    assert {"unclipped", "regressor", "cube", "root", "cleared"} <= ruined


@pytest.mark.parametrize(
    ("step", "wrong"),
    [
        (lambda x: x * 10.0, True),
        (lambda x: x * 10.0 - x * 10.0, True),
        (lambda x: x / 3.0, False),
        (lambda x: 1e-300 / x, False),
        (lambda x: 0.1 + x, False),
        (lambda x: stats.EWMean().update(x), False),
        (lambda x: float("inf") > x, False),
    ],
)
def test_the_flags_tell_what_went_wrong_and_nothing_else(
    step: Callable[[float], object], wrong: bool
) -> None:
    clear()
    assert not went_wrong()
    step(1e308)
    assert went_wrong() is wrong
    clear()
    assert not went_wrong()


def test_a_dump_counts_what_is_not_finite_wherever_it_is() -> None:
    mean = stats.EWMean()
    mean.update(inf)
    held = {
        "f": [nan, -nan, 1.0],
        "a": np.array([[inf, 0.0], [nan, 1.0]]),
        "s": np.float64(-inf),
        "t": "G\x7f",
        "m": mean,
    }
    found = dump(held)

    assert found.numbers == 5
    assert found.states >= 1
    assert loaded(found.data)["f"][2] == 1.0
