"""Going back to what a model was before one sample: a copy that is made now and then, and the samples since.

Nobody can tell beforehand whether a sample ruins a model, and a copy for each would cost more than learning. So one
that did is undone by learning those before it again, from the copy: to the bit the same, since a version is a fold.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from .arithmetic import Dump, clear, dump, loaded, went_wrong
from .records import Sample, Value

EVERY = 1_000  # samples between two copies, at least
_SAMPLE = (
    1_000  # bytes of one, about: those since the copy take as much memory as it, and copying little time
)


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


class Undo:
    """What is needed to leave out a sample that ruins a model.

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

    def learn(self, model: Any, sample: Sample, x: dict[str, Value]) -> bool:
        """Lets a model that was just asked learn; whether it took the sample. If not it is ruined: go on with `before`.

        It did not where an error of arithmetic was raised half-way, or where a step of it went wrong and left more
        numbers in the model that are not finite.
        """
        wrong: list[str] = []
        clear()
        try:
            with np.errstate(
                over="call", invalid="call", divide="call", call=lambda what, _: wrong.append(what)
            ):
                self._teacher.teach(model, x, sample)
        except (ArithmeticError, ValueError):
            return False
        if not wrong and not went_wrong():
            self._since.append(sample)
            return True
        now, before = dump(model), dump(self.before())
        if now.numbers + now.states > before.numbers + before.states:
            return False
        self._copied(now)  # it may go on like this
        return True

    def before(self) -> Any:
        """Returns the model as it was after the last sample that it took."""
        model = loaded(self._copy.data)
        for sample in self._since:
            self._again(model, sample)
        return model

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
            copy, out = self._step_by_step()
            model = loaded(copy.data)
        self._copied(copy)
        return model, out

    def _step_by_step(self) -> tuple[Dump, int]:
        copy, out = self._copy, 0
        for sample in self._since:
            model = loaded(copy.data)
            self._again(model, sample)
            now = dump(model)
            if now.numbers > copy.numbers:
                out += 1
            else:
                copy = now
        return copy, out

    def _again(self, model: Any, sample: Sample) -> None:
        x = self._teacher.x_of(sample)
        with np.errstate(all="ignore"):
            self._teacher.ask(model, x)
            self._teacher.teach(model, x, sample)
