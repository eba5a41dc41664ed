"""The way from labels to outcomes: a label goes to the model's log, is joined, and its sample is folded.

A request that reads outcomes sees, in a run without lag, every outcome of a label up to its time. While catching up it
waits for that: the chain has *passed* a time when nothing will leave it any more for a label up to that time which is
in the label source already. That is so when, one after the other,

1. the label source has passed the time: its labels are in the model's log,
2. the join has read the log to its end as it was then: their samples are in the topic of samples, but for labels whose
   request has not been scored yet,
3. the fold of the samples has read that topic to its end as it was then, or to an outcome that was known later: where
   the log is folded anew, samples of the first time lie further ahead than anyone may read.

The join knows those labels: they wait there for their prediction. So of the requests that wait, all are scored up to
the first moment at which the outcome of one of them is known; then the chain is gone through again. Where another
process joins, these labels are not known, and requests that are scored together do not see the outcomes of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from features.clock import NEVER
from features.store import Group

from .elsewhere import END, Elsewhere

Asked = tuple[str, int]  # a request: its id and its time


class Chain:
    """How far the outcomes of one model have come.

    Args:
        elsewhere: knows how far the join and the fold of the samples are, whoever they belong to.
        logs: the groups of the model's log.
        samples: the groups of its samples.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        elsewhere: Elsewhere,
        logs: Sequence[Group],
        samples: Sequence[Group],
        clock: Callable[[], float],
    ) -> None:
        self.groups = (*logs, *samples)
        self._elsewhere = elsewhere
        self._logs, self._samples = logs, samples
        self._clock = clock
        self._front = NEVER  # what it has passed, for requests that came before `_moment`
        self._moment = -1e18
        # when the first outcome of a request that waits is known, and which requests may be scored nevertheless
        self._bound = END
        self._first: Collection[Asked] = ()
        self._began: float | None = None
        self._next = NEVER
        self._joined: float | None = None
        self._rewinds = 0  # of the store, that it has heard of

    def passed(self, request: Asked, since: float) -> bool:
        """Whether a request need not wait for outcomes.

        Args:
            request: which.
            since: when it came, or when the last one of its partition was scored: in monotonic seconds.
        """
        t = request[1]
        self._look_back()
        if self._moment > since and t < self._front:
            return t < self._bound or request in self._first
        return all(self._elsewhere.live(group, t, since) for group in self.groups)

    def turn(
        self,
        labels: int,
        front: Callable[[Group], int],
        waiting: Sequence[tuple[int, float]],
        known: Callable[[], tuple[int, Collection[Asked]]],
    ) -> None:
        """Goes on, for requests that wait.

        Args:
            labels: the event time that labels still to come have at least.
            front: up to which time the next sample of a group shows that all have been folded.
            waiting: the next request of each partition: its time, and since when it waits.
            known: the first time at which the outcome of a request that waits is known, and that request with those
                that are scored before it because they stand before it in its partition.
        """
        now, reached = self._clock(), self._elsewhere.reached
        self._look_back()
        if self._began is None:
            self._began, self._next, self._joined = now, labels, None
        if self._joined is None and all(reached(group) > self._began for group in self._logs):
            self._joined = now
        if self._joined is None:
            return
        behind = [group for group in self._samples if reached(group) <= self._joined]
        folded = min(map(front, behind), default=END)
        self._front, self._moment = min(self._next, folded), self._began
        # it looks at every request that waits: only when one of them is about to be let through
        if not behind or any(t < self._front and self._moment > since for t, since in waiting):
            self._bound, self._first = known()
        # The samples may not be read further before the requests that wait are scored: where another round would let
        # one of them pass (it came after this one began, or the labels have gone on), this one is over.
        better = min(labels, folded)
        if not behind or any(
            t < better and (self._moment <= since or t >= self._front) for t, since in waiting
        ):
            self._began = None

    def _look_back(self) -> None:
        """Has passed nothing any more when the store has gone back: the samples may have to be folded again."""
        if self._rewinds != self._elsewhere.rewinds:
            self._rewinds = self._elsewhere.rewinds
            self._front, self._moment, self._began = NEVER, -1e18, None
