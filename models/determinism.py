"""Is a learner a function of its samples? Asked once, when a project is loaded.

Two untrained copies learn the same made-up samples. If their canonical digests or any prediction differ by a
bit, the learner draws from a generator that nobody seeded, and its versions could never be rebuilt: it is
refused. The same samples (every declared type, missing values where a slot may be missing) show whether it
can take them at all.

Both copies live in one process, hence under one hash seed. Where Python draws that seed, a third copy learns
with its sets in another order: River's `compose.Select` iterates over a set of names, so the order in which a
model sums its inputs, and with it the last bit of a score, would change from process to process. Sets that
only come up while learning are beyond this test: processes that learn should run with PYTHONHASHSEED=0.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from models.canonical import GENERATORS, Place, canonical_bytes, digest, explore
from models.errors import LearnerRefused, NonFiniteScore, UnseededLearner
from models.task import Task, learn, score

SAMPLES = 640
"""Trees wait for 200 samples before they split, HalfSpaceTrees for 250 before they score, SWINN for 500."""

Missing = Literal["absent", "none"]
"""How a missing value is handed over: as a key that is not there, or as None."""

_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "amber birch", "cedar delta ember", "")


@dataclass(frozen=True)
class Input:
    """One slot of the vector, as far as a learner sees it."""

    name: str
    type: type[float] | type[int] | type[bool] | type[str]
    may_be_missing: bool = False


def refuse_if_undetermined(
    learner: Any,
    inputs: Sequence[Input],
    task: Task,
    label_type: type | None,
    *,
    missing: Missing = "absent",
    samples: int = SAMPLES,
) -> None:
    """Returns if the untrained learner is a function of its samples and can take samples like these.

    Blocks while two copies learn; the learner itself is left untouched.

    Raises:
        NotCanonical: it holds something whose value cannot be written down (a lambda, a lock).
        LearnerRefused: it fails on a declared input or on the label; the message names the input.
        UnseededLearner: the copies differ; the message names the parameters without a seed.
    """
    canonical_bytes(learner)
    trial = _Trial(learner, task, label_type, missing, samples)
    try:
        first, second = trial.run(inputs, 1), trial.run(inputs, 2)
    except Exception as error:  # a learner may raise anything
        raise _failed(trial, inputs, error) from error
    if first != second:
        raise _undetermined(learner)
    if sys.flags.hash_randomization and trial.run(inputs, 1, reorder=True) != first:
        raise _of_hash_order(learner)


# -- the trial -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    learner: Any
    task: Task
    label_type: type | None
    missing: Missing
    samples: int

    def run(self, inputs: Sequence[Input], number: int, *, reorder: bool = False) -> tuple[str, list[bytes]]:
        """What a fresh copy predicted, and what it became."""
        twin = _copy(self.learner, number)
        if reorder:
            for _, held in _sets(twin):
                _reorder(held)
        scores = []
        for x, y in _made_up(inputs, self.label_type, self.missing, self.samples):
            scores.append(self._score(twin, dict(x)))
            learn(twin, x, y, self.task)
        return digest(twin), scores

    def _score(self, twin: Any, x: dict[str, Any]) -> bytes:
        try:
            return canonical_bytes(score(twin, x, self.task))
        except NonFiniteScore as error:
            # It ran away on numbers that are not the project's; that says nothing about its own.
            return str(error).encode()

    def fails(self, inputs: Sequence[Input]) -> bool:
        try:
            self.run(inputs, 1)
        except Exception:  # noqa: BLE001  # whether, not why
            return True
        return False


def _copy(learner: Any, number: int) -> Any:
    """An untrained copy whose unseeded generators stand elsewhere than those of another number's copy.

    River's `clone` builds learners anew, but copies the lists that they are given, generators included; so
    does deepcopy. Without the shift, two such copies would draw alike here, and differently after a restart.
    Nor is a clone a copy: it shares what came as `*args`, such as the statistics of a `StatImputer`.
    """
    cloned = hasattr(learner, "clone")
    twin = copy.deepcopy(learner)
    if cloned:
        twin = twin.clone()
    for place in explore(twin):
        if place.seedless or not (place.owned or cloned):
            _shift(place.value, number)
    return twin


def _shift(value: Any, number: int) -> None:
    if isinstance(value, random.Random | np.random.RandomState):
        value.seed(number)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = type(value.bit_generator)(number).state


def _sets(learner: Any) -> Iterator[tuple[str, set[Any]]]:
    """Sets whose order depends on the hash seed, and where they are."""
    for place in explore(learner):
        if isinstance(place.value, set) and sum(isinstance(item, str | bytes) for item in place.value) > 1:
            yield place.path, place.value


def _reorder(held: set[Any]) -> None:
    """Gives a set another order, as another hash seed would: the order depends on the size of its table.

    Two or three strings may keep their order in every size (about one set in fifty does).
    """
    before = list(held)
    for size in (16, 64, 256, 1024, 4096, 16384):
        passing = [(size, number) for number in range(size)]
        held.update(passing)
        for item in passing:
            held.discard(item)  # one by one: `-=` would shrink the table again
        if list(held) != before:
            return


# -- the samples ---------------------------------------------------------------------------------------------


class _Dice:
    """A linear congruential generator (Knuth's MMIX constants), alike in every version of Python."""

    def __init__(self) -> None:
        self.state = 1

    def roll(self, sides: int) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % sides


def _made_up(
    inputs: Sequence[Input], label_type: type | None, missing: Missing, samples: int
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Samples whose label depends on the inputs, with some noise: there is something to learn."""
    dice = _Dice()
    for _ in range(samples):
        x: dict[str, Any] = {}
        signal = 0
        for slot in inputs:
            draw = dice.roll(1000)
            if slot.may_be_missing and dice.roll(5) == 0:
                if missing == "none":
                    x[slot.name] = None
                continue
            x[slot.name] = _value(slot.type, draw)
            signal += draw
        yield x, _label(label_type, signal + dice.roll(200), 500 * max(1, len(inputs)))


def _value(kind: type, draw: int) -> float | int | bool | str:
    if kind is bool:
        return draw >= 500
    if kind is int:
        return draw % 10
    if kind is str:
        return _WORDS[draw % len(_WORDS)]
    return (draw - 500) / 512


def _label(kind: type | None, signal: int, middle: int) -> Any:
    if kind is None:
        return None
    if kind is bool:
        return signal > middle
    if kind is int:
        return (signal > middle) + (signal > middle * 1.2)
    if kind is str:
        return ("low", "middle", "high")[(signal > middle) + (signal > middle * 1.2)]
    return signal / 512


# -- the refusals --------------------------------------------------------------------------------------------


def _failed(trial: _Trial, inputs: Sequence[Input], error: Exception) -> LearnerRefused:
    """Which input the learner cannot take: the one that alone makes it fail among plain numbers."""
    name = type(trial.learner).__qualname__
    why = f"{type(error).__name__}: {error}"
    plain = [replace(slot, type=float, may_be_missing=False) for slot in inputs]
    if trial.fails(plain):
        label = "no label" if trial.label_type is None else f"{trial.label_type.__name__} labels"
        return LearnerRefused(
            f"{name} fails on made-up samples of {len(inputs)} numbers and {label}",
            where="learner=",
            why=why,
            fix="check that it is a learner for this label, and that its parameters fit these inputs",
        )
    culprits = list(_culprits(trial, inputs, plain))
    if not culprits:
        culprits = [("the inputs together", "try them one by one")]
    return LearnerRefused(
        f"{name} cannot take {', '.join(what for what, _ in culprits)}",
        where="inputs= and learner=",
        why=why,
        fix="; ".join(dict.fromkeys(fix for _, fix in culprits)),
    )


def _culprits(trial: _Trial, inputs: Sequence[Input], plain: Sequence[Input]) -> Iterator[tuple[str, str]]:
    for index, slot in enumerate(inputs):
        typed = replace(slot, may_be_missing=False)
        if trial.fails([*plain[:index], typed, *plain[index + 1 :]]):
            yield f"{slot.name!r} ({slot.type.__name__})", _TYPE_FIX.get(slot.type, _TYPE_FIX[float])
        gappy = replace(plain[index], may_be_missing=slot.may_be_missing)
        if slot.may_be_missing and trial.fails([*plain[:index], gappy, *plain[index + 1 :]]):
            yield f"{slot.name!r} (missing)", _MISSING_FIX[trial.missing].format(slot.name)


_TYPE_FIX: dict[type, str] = {
    str: "encode text first: preprocessing.OneHotEncoder(), preprocessing.FeatureHasher(seed=1)"
    " or feature_extraction.BagOfWords(on=...) for these inputs",
    bool: "turn it into a number in the inputs",
    int: "turn it into a float in the inputs",
    float: "turn it into another type in the inputs",
}
_MISSING_FIX: dict[Missing, str] = {
    "none": "put preprocessing.StatImputer(({!r}, stats.Mean())) in front, or leave missing values out:"
    ' missing="absent"',
    "absent": 'hand missing values over as None, missing="none", with'
    " preprocessing.StatImputer(({!r}, stats.Mean())) in front",
}


def _undetermined(learner: Any) -> UnseededLearner:
    places = list(_unseeded(learner))
    name = type(learner).__qualname__
    if not places:
        return UnseededLearner(
            f"{name} became another learner when it saw the same samples again",
            where=", ".join(_ownerless(learner)) or "learner=",
            why="it draws from a generator without a seed (its own or a global one), or from the clock",
            fix="draw from a generator of its own, started from a parameter called `seed`",
        )
    return UnseededLearner(
        f"{name} became another learner when it saw the same samples again",
        where=", ".join(place.path for place in places),
        why=f"nobody seeded {', '.join(dict.fromkeys(_owner(place) for place in places))}",
        fix="give each a number: " + ", ".join(dict.fromkeys(f"{_owner(place)}(seed=1)" for place in places)),
    )


def _of_hash_order(learner: Any) -> UnseededLearner:
    return UnseededLearner(
        f"{type(learner).__qualname__} depends on the order of a set, hence on the hash seed of the process",
        where=", ".join(path for path, _ in _sets(learner)),
        why="it iterates over a set of strings; Python orders these anew in each process",
        fix="start every process with PYTHONHASHSEED=0, or use a step that keeps an order",
    )


def _unseeded(learner: Any) -> Iterator[Place]:
    """The `seed` parameters that are None, one for each class."""
    named: set[type] = set()
    for place in explore(learner):
        held = getattr(place.value, "__dict__", {})
        if "seed" in held and held["seed"] is None and type(place.value) not in named:
            named.add(type(place.value))
            yield place._replace(path=f"{place.path}.seed")


def _ownerless(learner: Any) -> list[str]:
    """Where generators are that belong to no `seed` at all."""
    return [
        place.path for place in explore(learner) if isinstance(place.value, GENERATORS) and not place.owned
    ]


def _owner(place: Place) -> str:
    return type(place.value).__qualname__
