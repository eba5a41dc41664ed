"""The learner: samples folded into versions of a model.

Version n is `fold(learn, initial, samples[0:n])`, over the samples that are learned. Repeats, samples of
another vector, vectors that no model must see and samples that would ruin the model do not count, and whether a
sample does is a function of it and of those before it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct
from river import metrics as river_metrics

from models.errors import ModelError, NonFiniteScore
from models.monitor import Monitor
from models.records import Sample, Scalar, Score, Value
from models.snapshot import Position
from models.task import Task, learn, score
from models.undo import Undo

__all__ = ["LARGEST", "Learner", "Missing", "Outcome", "VectorError", "vector_to_x"]

LARGEST = 1e100
"""The largest number that a model is shown: squared and summed up by a scaler it is still finite."""

Missing = Literal["omit", "none"]
"""How a missing value reaches the model: not at all (River's sparse convention) or as None (for imputers)."""


class VectorError(ModelError):
    """A vector that no model must see."""


def vector_to_x(names: Sequence[str], vector: Sequence[Value], missing: Missing) -> dict[str, Value]:
    """The features of a vector by name, in slot order, as a River model takes them.

    >>> vector_to_x(["amount", "country"], [1.5, None], "omit")
    {'amount': 1.5}

    Raises:
        VectorError: a slot too many or too few, NaN, an infinity, a number beyond `LARGEST`, or an
            integer beyond 64 bits.
    """
    if len(vector) != len(names):
        raise VectorError(
            f"a vector of {len(vector)} slots, the model has {len(names)}",
            why="one model version learns from one vector only",
        )
    for value in vector:
        # Written so that NaN fails it, whatever it is compared with.
        if value is not None and value.__class__ is not str and not -LARGEST <= value <= LARGEST:  # type: ignore[operator]
            raise VectorError(
                f"{names[vector.index(value)]} is {value!r}",
                why=f"one such value ruins most models for good; numbers are finite, within {LARGEST:g}",
            )
        if value.__class__ is int and not -(2**63) <= value < 2**63:
            raise VectorError(
                f"{names[vector.index(value)]} is {value}",
                why="integers have at most 64 bits: no log carries more",
            )
    if missing == "omit" and None in vector:
        return {name: value for name, value in zip(names, vector, strict=True) if value is not None}
    return dict(zip(names, vector, strict=True))


class Outcome(Struct, frozen=True, gc=False):
    """What a sample did: `version` after it, and what the learner had said before it learned."""

    what: Literal["learned", "repeated", "foreign", "refused", "ruinous", "correction"]
    version: int
    score: Score = None


class Learner:
    """The single writer of a model: one sample after the other, in the order of the samples topic.

    Args:
        prototype: the untrained learner; it is copied, never trained.
        names: of the vector's slots, in order.
        fingerprint: of the vector; samples of another one are dropped.
        rules: the name of those that its samples are joined by; others are dropped.
        learn_corrections: also learn labels that came after their sample had left.
        metrics: River metrics to keep besides those of the task.
    """

    def __init__(
        self,
        name: str,
        prototype: Any,
        task: Task,
        names: Sequence[str],
        fingerprint: str,
        missing: Missing = "omit",
        learn_corrections: bool = False,
        metrics: Sequence[river_metrics.base.Metric] = (),
        rules: str = "",
    ) -> None:
        self.name = name
        self.task = task
        self.fingerprint = fingerprint
        self.rules = rules
        self.model: Any = _untrained(prototype)
        self.version = 0
        self.origins: dict[str, tuple[int, int]] = {}
        """Per group of the model log, the (offset, index) of the last sample of this vector."""
        self.next_offset = 0
        """Where to go on in the samples topic."""
        self.monitor = Monitor(task, metrics)
        self.counters: Counter[str] = Counter()
        """Samples by outcome since the start of the process; no part of the state."""
        self._names = tuple(names)
        self._missing = missing
        self._learn_corrections = learn_corrections
        self._undo = Undo(self.model, self)

    @property
    def position(self) -> Position:
        """What was learned of, as a snapshot says it."""
        return Position(origins=dict(self.origins), next=self.next_offset)

    def resume(self, model: Any, version: int, position: Position, monitor: Monitor) -> None:
        """Goes on from a snapshot: exactly as if the samples before it had been learned here.

        The model and the monitor are taken over: nobody else may hold them.
        """
        self.model, self.version, self.monitor = model, version, monitor
        self._undo = Undo(model, self)
        self.origins, self.next_offset = dict(position.origins), position.next

    def on_sample(self, sample: Sample, offset: int) -> Outcome:
        """Scores the logged prediction, asks the model about the logged vector, then lets it learn."""
        outcome = self._fold(sample)
        self.next_offset = max(self.next_offset, offset + 1)
        self.counters[outcome.what] += 1
        return outcome

    def _fold(self, sample: Sample) -> Outcome:
        if sample.fingerprint != self.fingerprint or not sample.of(self.rules):
            # first: the join of another version may have gone further than ours, which leaves out what is foreign
            return Outcome("foreign", self.version)
        origin = (sample.offset, sample.index)
        if origin <= self.origins.get(sample.source, (-1, 0)):
            return Outcome("repeated", self.version)
        self.origins[sample.source] = origin
        if sample.kind == "correction" and not self._learn_corrections:
            return Outcome("correction", self.version)
        try:
            x = self.x_of(sample)
            _check_label(sample.label)
        except VectorError:
            return Outcome("refused", self.version)
        return self._learn(sample, x)

    def _learn(self, sample: Sample, x: dict[str, Value]) -> Outcome:
        self.monitor.on_served(sample)
        said = self.ask(self.model, x)
        self.monitor.on_progressive(sample, said)
        learned = self._undo.learn(self.model, sample, x)
        self._go_on(learned.model, learned.out)
        if not learned.taken:
            return Outcome("ruinous", self.version, said)
        self.version += 1
        if self._undo.due():
            self.settle()
        return Outcome("learned", self.version, said)

    def settle(self) -> None:
        """Looks at the model as a whole; whoever shows it to others calls it before.

        What ruined it and was not noticed at once is left out of it, so that its version goes back by as much.
        """
        self._go_on(*self._undo.settle(self.model))

    def _go_on(self, model: Any, out: int) -> None:
        self.model = model
        self.version -= out
        self.counters["ruinous"] += out

    def x_of(self, sample: Sample) -> dict[str, Value]:
        """Returns the features of a sample.

        Raises:
            VectorError: a vector that no model must see.
        """
        return vector_to_x(self._names, sample.vector, self._missing)

    def ask(self, model: Any, x: dict[str, Value]) -> Score:
        """Returns what a model says of features."""
        try:
            return score(model, x, self.task)
        except NonFiniteScore:
            # The board counts it as unscored; the sample is learned, or one bad score would end all learning.
            return None

    def teach(self, model: Any, x: dict[str, Value], sample: Sample) -> None:
        """Lets a model learn a sample."""
        learn(model, x, sample.label, self.task)


def _check_label(label: Scalar) -> None:
    if isinstance(label, str):
        return
    if not -LARGEST <= label <= LARGEST or not (isinstance(label, float) or -(2**63) <= label < 2**63):
        raise VectorError(f"a label of {label!r}", why=f"numbers are finite, within {LARGEST:g} or 64 bits")


def _untrained(prototype: Any) -> Any:
    # Not River's clone(): it shares what was passed as *args, so that training the clone trains the prototype.
    return copy.deepcopy(prototype)
