"""Features: the vocabulary of a project file, and the fold, vector and store behind it."""

from .aggregation import Aggregation, Feature
from .aggregations import (
    Count,
    DecayedCount,
    DecayedSum,
    Distinct,
    First,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Quantile,
    Ratio,
    StdDev,
    Sum,
    TimeSinceFirst,
    TimeSinceLast,
    TopK,
    Variance,
)
from .errors import DefinitionError, EventRefused, HeadraceError
from .source import Entity, Source
from .transforms import distance, haversine_km, hour, night, weekday, weekend
from .vector import Vector
from .view import FeatureView

__all__ = [
    "Aggregation",
    "Count",
    "DecayedCount",
    "DecayedSum",
    "DefinitionError",
    "Distinct",
    "Entity",
    "EventRefused",
    "Feature",
    "FeatureView",
    "First",
    "HeadraceError",
    "Last",
    "LastK",
    "Max",
    "Mean",
    "Min",
    "Quantile",
    "Ratio",
    "Source",
    "StdDev",
    "Sum",
    "TimeSinceFirst",
    "TimeSinceLast",
    "TopK",
    "Variance",
    "Vector",
    "distance",
    "haversine_km",
    "hour",
    "night",
    "weekday",
    "weekend",
]
