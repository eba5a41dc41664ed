"""Going back to what a model was before one sample: a copy that is made now and then, and the samples since.

Nobody can tell beforehand whether a sample ruins a model, and a copy for each would cost more than learning. So one
that did is undone by learning those before it again, from the copy: to the bit the same, since a version is a fold.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from .arithmetic import Dump, clear, dump, loaded, went_wrong
from .records import Sample, Value

EVERY = 1_000  # samples between two copies, at least
_SAMPLE = (
    1_000  # bytes of one, about: those since the copy take as much memory as it, and copying little time
)


_FAILED = (ArithmeticError, ValueError)


class Teacher(Protocol):
    """How a model learns a sample."""

    def x_of(self, sample: Sample) -> dict[str, Value]:
        """Returns the features of a sample."""
        ...

    def ask(self, model: Any, x: dict[str, Value]) -> object:
        """Asks the model; some change when they are asked."""
        ...

    def teach(self, model: Any, x: dict[str, Value], sample: Sample) -> None:
        """Lets the model learn."""
        ...


class Learned(NamedTuple):
    """What became of a sample."""

    model: Any
    taken: bool  # whether it is in the model
    out: int  # how many samples before it turned out to have ruined the model, and are in it no longer


class Undo:
    """What is needed to leave out a sample that ruins a model.

    Whether a sample is left out depends on it and on those that were taken before, and never on when the model was
    looked at: one whose step went wrong is judged after all before it were.

    Args:
        model: as it stands now.
        teacher: how it learns.
    """

    def __init__(self, model: Any, teacher: Teacher) -> None:
        self._teacher = teacher
        self._copied(dump(model))

    def _copied(self, copy: Dump) -> None:
        self._copy = copy
        self._since: list[Sample] = []
        self._most = max(EVERY, len(copy.data) // _SAMPLE)

    def learn(self, model: Any, sample: Sample, x: dict[str, Value]) -> Learned:
        """Lets a model that was just asked learn, and says with which one to go on."""
        try:
            sound = self._sound(model, sample, x)
        except _FAILED:
            sound = False
        if sound:
            self._since.append(sample)
            return Learned(model, True, 0)
        _, out = self.settle(self._before())
        taken = self._step(sample)
        return Learned(loaded(self._copy.data), taken, out)

    def due(self) -> bool:
        """Whether it is time for another copy."""
        return len(self._since) >= self._most

    def settle(self, model: Any) -> tuple[Any, int]:
        """Makes a new copy.

        Returns:
            The model, and how many of the samples since the last copy are left out of it: those after which there were
            more numbers that are not finite, although nothing had told.
        """
        copy, out = dump(model), 0
        if copy.numbers > self._copy.numbers:
            since, self._since = self._since, []
            out = sum([not self._step(sample) for sample in since])
            return loaded(self._copy.data), out
        self._copied(copy)
        return model, out

    def _sound(self, model: Any, sample: Sample, x: dict[str, Value]) -> bool:
        """Lets a model learn; whether no step of its arithmetic went wrong.

        Raises:
            ArithmeticError, ValueError: one was raised half-way.
        """
        wrong: list[str] = []
        clear()
        with np.errstate(over="call", invalid="call", divide="call", call=lambda what, _: wrong.append(what)):
            self._teacher.teach(model, x, sample)
        return not wrong and not went_wrong()

    def _before(self) -> Any:
        """Returns the model as it was after the last sample that it took."""
        model = loaded(self._copy.data)
        for sample in self._since:
            x = self._teacher.x_of(sample)
            with np.errstate(all="ignore"):
                self._teacher.ask(model, x)
                self._teacher.teach(model, x, sample)
        return model

    def _step(self, sample: Sample) -> bool:
        """Copies the model with one sample more, unless that ruins it; whether it does not."""
        model, x, before = loaded(self._copy.data), self._teacher.x_of(sample), self._copy
        self._teacher.ask(model, x)
        try:
            sound = self._sound(model, sample, x)
        except _FAILED:
            return False
        now = dump(model)
        worse = now.numbers > before.numbers
        if not sound:  # then a place that looks like one is one
            worse = now.numbers + now.states > before.numbers + before.states
        if not worse:
            self._copied(now)
        return not worse
