"""The predictor: one immutable version of a model, and the one way to a score."""

from __future__ import annotations

from typing import Any, NamedTuple

from features.transforms import Scalar

from .learner import vector_to_x
from .snapshot import Snapshot
from .spec import Model
from .task import Score, Task, predicted, score


class Prediction(NamedTuple):
    """What a version says of a vector."""

    score: Score
    decision: bool | str | None  # where the model has a threshold, or picks one of several classes
    version: int


class Predictor:
    """Scores vectors with one version. It is never changed: a newer version is a new predictor."""

    def __init__(self, model: Model, learner: Any, version: int) -> None:
        self.version = version
        self._learner = learner
        self._task = model.task
        self._names = tuple(model.vector.names)
        self._missing = model.spec.missing
        self._threshold = model.spec.threshold

    @classmethod
    def untrained(cls, model: Model) -> Predictor:
        """Returns version 0."""
        return cls(model, model.new_learner().model, 0)

    @classmethod
    def of(cls, model: Model, snapshot: Snapshot) -> Predictor:
        """Returns the version in a snapshot."""
        return cls(model, snapshot.learner, snapshot.version)

    def predict(self, vector: list[Scalar]) -> Prediction:
        """Returns the score of a vector.

        Raises:
            VectorError: a number that no model must see.
            NonFiniteScore: the learner's answer is no number.
        """
        x = vector_to_x(self._names, vector, self._missing)
        value = score(self._learner, x, self._task)
        decision: bool | str | None = None
        if isinstance(value, dict):
            decision = predicted(value)
        elif self._threshold is not None and self._task is not Task.MULTICLASS:
            decision = value >= self._threshold
        return Prediction(value, decision, self.version)
