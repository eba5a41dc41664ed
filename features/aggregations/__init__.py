"""The aggregations. Adding one is one class in this folder and one line here; the contract tests collect it."""

from .count import Count
from .decayed import DecayedCount, DecayedSum
from .distinct import Distinct
from .extremes import Max, Min
from .moments import Mean, StdDev, Sum, Variance
from .order import First, Last, LastK
from .quantile import Quantile
from .ratio import Ratio
from .recency import TimeSinceFirst, TimeSinceLast
from .topk import TopK

__all__ = [
    "Count",
    "DecayedCount",
    "DecayedSum",
    "Distinct",
    "First",
    "Last",
    "LastK",
    "Max",
    "Mean",
    "Min",
    "Quantile",
    "Ratio",
    "StdDev",
    "Sum",
    "TimeSinceFirst",
    "TimeSinceLast",
    "TopK",
    "Variance",
]
