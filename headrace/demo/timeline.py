"""The demo's clock: months pass in minutes until the present is reached, then time is what it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeline:
    """Two stretches: the time lapse from `start`, and the present.

    The town lives on by its own clock (`inner`). In the time lapse that is the events' time as well. In the present it
    goes on at `live_speed`, and the events bear the time of the wall, so that nothing is ever of the future.

    Args:
        start: where the time lapse begins, in milliseconds.
        now: what the wall's clock says when it begins.
        speed: milliseconds of event time a second in the time lapse.
        live_speed: milliseconds of the town's time a second in the present.

    Example:
        >>> line = Timeline(start=0, now=9_000, speed=10_000, live_speed=2_000)
        >>> line.meets, line.inner(0.5), line.inner(2.0), line.stamp(5_000), line.stamp(line.inner(2.0))
        (1.0, 5000, 12000, 5000, 11000)
    """

    start: int
    now: int
    speed: float
    live_speed: float

    @property
    def meets(self) -> float:
        """Seconds after which the time lapse reaches the present."""
        return (self.now - self.start) / (self.speed - 1000)

    def inner(self, elapsed: float) -> int:
        """Returns the town's time so many seconds after the beginning."""
        lapse = min(elapsed, self.meets)
        return self.start + round(self.speed * lapse + self.live_speed * (elapsed - lapse))

    def stamp(self, inner: int) -> int:
        """Returns the event time of what happens at a time of the town."""
        turn = self.start + self.speed * self.meets
        if inner <= turn:
            return inner
        return round(turn + (inner - turn) * 1000 / self.live_speed)
