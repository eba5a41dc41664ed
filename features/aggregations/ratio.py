"""One aggregation divided by another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..aggregation import Aggregation
from ..errors import DefinitionError


class Ratio(Aggregation[float | None]):
    """The quotient of two aggregations over the same window; missing where either is, or where the divisor is zero.

    Example:
        >>> from features import Count, Ratio, Count
        >>> Ratio(Count(), Count()).combine([1, 4])
        0.25
    """

    def __init__(self, dividend: Aggregation[Any], divisor: Aggregation[Any]) -> None:
        super().__init__()
        for part in (dividend, divisor):
            if part.width != 1 or isinstance(part, Ratio) or part.keeps == "text":
                raise DefinitionError(
                    f"Ratio of {part!r}", fix="divide one number by another, such as Count()"
                )
        self._parts = (dividend, divisor)

    @property
    def parameter(self) -> str | int:
        """Both parts."""
        return f"{self._parts[0]!r}, {self._parts[1]!r}"

    def parts(self) -> tuple[Aggregation[Any], ...]:
        """Returns the dividend and the divisor."""
        return self._parts

    def combine(self, values: Sequence[Any]) -> float | None:
        """Returns the quotient."""
        dividend, divisor = values
        return float(dividend / divisor) if dividend is not None and divisor else None
