"""A view: the features of one entity from one source, as the attributes of a class.

    class CardActivity(FeatureView, of=card, source=transactions):
        count_10m, count_1h = Count().over("10m", "1h")
        mean_30d = Mean(Transaction.amount).over("30d")

On the class an attribute is the feature; on a row, which a request-time function receives, it is the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, ClassVar

from .aggregation import Feature
from .errors import DefinitionError
from .lookup import look_up
from .source import Entity, Source

RESERVED = {"of", "source", "where", "own_event", "features", "as_dict", "_values"}


class FeatureView:
    """Base of all views; a row holds the values of one entity at one time.

    Class arguments:
        of: the entity.
        source: where its events come from: a source, or a model's outcomes.
        where: a plain function of the event; only events for which it is true are seen.
        own_event: whether a request sees its own event as one of the view's. True by default, which matters only where
            the request's source is the view's.
    """

    of: ClassVar[Entity]
    source: ClassVar[Source[Any]]
    where: ClassVar[Callable[[Any], bool] | None]
    own_event: ClassVar[bool]
    features: ClassVar[tuple[Feature[Any], ...]]

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __init_subclass__(
        cls,
        *,
        of: Entity | None = None,
        source: Source[Any] | None = None,
        where: Callable[[Any], bool] | None = None,
        own_event: bool = True,
        shuffle: bool = False,
    ) -> None:
        super().__init_subclass__()
        name = cls.__name__
        if shuffle:
            raise DefinitionError(
                f"view {name} asks for shuffle=True, which this version cannot do",
                why="its entity would need a second topic and a hop; now each partition keeps a part of its state",
                fix="leave it out: reads merge the parts of up to about 8 partitions at little cost",
            )
        if of is None or source is None:
            raise DefinitionError(
                f"view {name} names no {'entity' if of is None else 'source'}",
                fix=f"write class {name}(FeatureView, of=<entity>, source=<source>)",
            )
        taken = RESERVED & vars(cls).keys()
        if taken:
            raise DefinitionError(
                f"{name}.{min(taken)} is a name that every view has already",
                fix="give the feature another name",
            )
        if where is not None and not isinstance(where, FunctionType):
            raise DefinitionError(
                f"view {name} has where={where!r}, which is no function", fix="write it with `def`"
            )
        cls.of, cls.source, cls.own_event = of, source, own_event
        cls.where = staticmethod(where) if where else None  # a plain function, not a method
        found = [(key, value) for key, value in vars(cls).items() if isinstance(value, Feature)]
        for key, value in vars(cls).items():
            if (
                not key.startswith("_")
                and isinstance(value, tuple)
                and any(isinstance(v, Feature) for v in value)
            ):
                raise DefinitionError(
                    f"{name}.{key} is given {len(value)} features at once",
                    fix="name each of them: a, b = Count().over('1h', '1d')",
                )
        if not found:
            raise DefinitionError(f"view {name} has no features", fix='give it one: n = Count().over("1d")')
        for key, feature in found:
            if feature.view is not cls or feature.name != key:
                raise DefinitionError(
                    f"{name}.{key} is the feature {feature.view.__name__}.{feature.name} again",
                    fix="make a new one with over()",
                )
        cls.features = tuple(feature for _, feature in found)
        if source.compacted:
            look_up(name, of, source, where, cls.features)

    def as_dict(self) -> dict[str, Any]:
        """Returns the values by name."""
        return dict(self._values)

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"{type(self).__name__}({inner})"
