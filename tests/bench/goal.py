"""A goal: what is claimed against whom, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Goal:
    """One claim, as the rounds of one interleaved run found it.

    Args:
        goal: What is claimed, with its unit.
        ours: Headrace's figure, a round each.
        other: The control's or peer's, a round each.
        target: The ratio ours / other to reach; None for a figure that is only shown.
        more: Whether more is better; a latency is better when it is less.
    """

    goal: str
    ours: Sequence[float]
    other: Sequence[float]
    target: float | None = None
    more: bool = True

    @property
    def ratios(self) -> list[float]:
        """Ours over the other's, a round each: the two stood minutes apart, on the same machine."""
        return [ours / other for ours, other in zip(self.ours, self.other, strict=True)]

    @property
    def worst(self) -> float:
        """The ratio of the worst round."""
        return min(self.ratios) if self.more else max(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the median of the ratios reaches the target; None without one."""
        if self.target is None:
            return None
        ratio = median(self.ratios)
        return ratio >= self.target if self.more else ratio <= self.target

    def plain(self) -> dict[str, Any]:
        """The goal as plain data, for JSON."""
        return {
            "goal": self.goal,
            "ours": median(self.ours),
            "other": median(self.other),
            "ratio": median(self.ratios),
            "worst": self.worst,
            "target": self.target,
            "met": self.met,
            "rounds": len(self.ratios),
            "ratios": self.ratios,
        }


def goals_table(goals: Sequence[Goal]) -> Table:
    """The goals as a table for the terminal."""
    table = Table(title="Ratios: median of the rounds, and the worst round")
    for name in ("goal", "ours", "other", "ratio", "worst", "target", "met"):
        table.add_column(name, justify="left" if name in ("goal", "met") else "right")
    for each in goals:
        sign = ">=" if each.more else "<="
        table.add_row(
            each.goal,
            figure(median(each.ours)),
            figure(median(each.other)),
            f"{median(each.ratios):.3g}x",
            f"{each.worst:.3g}x",
            "" if each.target is None else f"{sign} {each.target:g}x",
            {True: "yes", False: "no", None: ""}[each.met],
        )
    return table


def figure(number: float) -> str:
    """A number with three digits, whatever its size.

    >>> figure(123456.0), figure(4.5678), figure(0.012345)
    ('123,456', '4.57', '0.0123')
    """
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
