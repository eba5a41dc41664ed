"""The rules of a join: when a prediction meets its label, and how much may wait."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from models.errors import ModelError
from models.records import Scalar

LONGEST = 2**53
FORMAT = 2  # of the stored join

Vectors = Literal["redis", "log"]
"""Where the vector of a waiting prediction is: beside it, or in the model's log alone."""


class RulesError(ModelError):
    """The stored join was folded by other rules: start a new version of the model beside the old one."""


class JoinRules(Struct, frozen=True, kw_only=True):
    """When a prediction meets its label. Durations are in milliseconds.

    Attributes:
        within: the horizon: a label counts up to and including `t + within`.
        absent: what silence means; without a value a prediction that stays unlabelled is dropped.
        silence: how long the label source may say nothing and still be taken for alive.
        lateness: how late a record of the sources may be; also how long an id is remembered.
        counts: of several labels the first in the log, or the last in event time (samples then leave at the
            horizon).
        learn_corrections: a label after the sample left leaves as a sample of its own.
        feeds: groups of the label source that must have been heard before anything can be absent.
        max_pending: predictions and early labels that may wait before `Join.full`.
        vectors: where the vector of a prediction waits that comes from now on.
        name: what its samples say that they were joined by.
        only: the fingerprint of the vectors that anyone needs; predictions with another one wait without theirs and
            leave no sample. None where all are needed.
    """

    within: int
    absent: Scalar | UnsetType | None = UNSET
    silence: int = 0
    lateness: int = 0
    counts: Literal["first", "last"] = "first"
    learn_corrections: bool = False
    feeds: tuple[str, ...] = ()
    max_pending: int = 1_000_000
    vectors: Vectors = "redis"
    name: str = ""
    only: str | None = None

    def __post_init__(self) -> None:
        for name in ("within", "silence", "lateness"):
            if not 0 <= getattr(self, name) <= LONGEST:
                raise ValueError(f"{name}={getattr(self, name)} ms: expected 0 to {LONGEST}")
        if self.max_pending < 1:
            raise ValueError(f"max_pending={self.max_pending}: expected at least 1")

    @property
    def memory(self) -> int:
        """How long after its horizon a prediction is remembered, in milliseconds."""
        return self.lateness + (self.within if self.learn_corrections else 0)

    def digest(self) -> bytes:
        """Returns what a sample depends on; a quota, or where vectors wait, may change at any start."""
        return msgspec.json.encode(
            {
                "format": FORMAT,
                "within": self.within,
                "absent": None if self.absent is UNSET else self.absent,
                "silence": self.silence,
                "lateness": self.lateness,
                "counts": self.counts,
                "learn_corrections": self.learn_corrections,
                "feeds": sorted(self.feeds),
            }
        )


UNLABELLED = JoinRules(within=0, absent=False, name="unlabelled")
"""Of a model that waits for nothing."""
