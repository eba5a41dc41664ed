"""The project: everything that one file declares, validated and compiled once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from features.aggregation import Feature
from features.errors import DefinitionError
from features.layout import Layout, name_of, under
from features.plan import StatePlan, plans_of
from features.source import Entity, Source
from features.transforms import Input, function_input
from features.view import FeatureView

from .outcomes import Outcomes
from .spec import NAME, Model, ModelSpec


class Project:
    """Models and views that are deployed together.

    Args:
        name: lower-case word, part of topics and of the keys in Redis.
        models: the models.
        views: views that no model reads yet, to be kept as well.
    """

    def __init__(self, name: str, *models: ModelSpec, views: Sequence[type[FeatureView]] = ()) -> None:
        where = f"Project({name!r})"
        if not NAME.fullmatch(name):
            raise DefinitionError(
                f"project name {name!r} is not usable", fix='use lower-case letters, as "payments"'
            )
        self.name = name
        self.specs = models
        _refuse_twins([spec.name for spec in models], "models", where)
        for spec in models:
            spec.bind(name)
        self.views = _views(models, views)
        _refuse_twins([view.__name__ for view in self.views], "views", where)
        if not self.views and not models:
            raise DefinitionError("the project is empty", where=where, fix="give it a model, or views=[...]")
        self.plans: list[StatePlan] = plans_of(self.views)
        self.models = [Model(name, spec, self.plans) for spec in models]
        self.sources = self._sources()
        _refuse_twins([source.topic for source in self.sources], "sources", where)

    def _sources(self) -> list[Source[Any]]:
        sources: list[Source[Any]] = []
        for spec in self.specs:
            sources.append(spec.request)
            if spec.label is not None:
                sources.append(spec.label.source)
        sources.extend(view.source for view in self.views)
        return [source for k, source in enumerate(sources) if source not in sources[:k]]

    def plans_over(self, source: Source[Any]) -> list[StatePlan]:
        """Returns the plans that are folded from a source."""
        return [plan for plan in self.plans if plan.source is source]

    def plans_digest(self, source: Source[Any]) -> str:
        """Returns what names the fold groups of a source: the layout of the states that they hold.

        A project that folds other states from the same log folds them beside the old ones, from the log's start.
        """
        return name_of([plan.spec for plan in self.plans_over(source)])

    def adopting(self, layouts: Mapping[str, Layout]) -> Project:
        """Returns the project compiled against deployed layouts; itself where they are its own.

        Args:
            layouts: one that serves each source, by topic.
        """
        plans = [
            plan
            for source in self.sources
            for plan in under(layouts[source.topic], source, self.plans_over(source))
        ]
        if set(plans) == set(self.plans):
            return self
        adopted = copy(self)
        adopted.plans = plans
        adopted.models = [Model(self.name, spec, plans) for spec in self.specs]
        return adopted

    def entity(self, name: str) -> Entity:
        """Returns an entity of the views by its name.

        Raises:
            DefinitionError: no view is of an entity of that name.
        """
        entities = self.entities
        if name not in entities:
            raise DefinitionError(
                f"no view is of an entity called {name!r}", fix=f"use one of {', '.join(sorted(entities))}"
            )
        return entities[name]

    @property
    def entities(self) -> dict[str, Entity]:
        """The entities of the views, by name."""
        return {view.of.name: view.of for view in self.views}

    def requested_by(self, source: Source[Any]) -> list[Model]:
        """Returns the models whose requests come from a source."""
        return [model for model in self.models if model.spec.request is source]

    def labelled_by(self, source: Source[Any]) -> list[Model]:
        """Returns the models whose labels come from a source."""
        return [
            model
            for model in self.models
            if model.spec.label is not None and model.spec.label.source is source
        ]

    def source(self, name: str) -> Source[Any]:
        """Returns a source by its topic, or by the dataset in it ("transactions" of "payments.transactions.v1").

        Raises:
            DefinitionError: none, or several, have that name.
        """
        found = [s for s in self.sources if s.topic == name or name in s.topic.split(".")]
        if len(found) != 1:
            known = ", ".join(s.topic for s in self.sources if not isinstance(s, Outcomes))
            raise DefinitionError(
                f"{'no' if not found else 'more than one'} source is called {name!r}",
                fix=f"use one of {known}",
            )
        return found[0]

    def model(self, name: str) -> Model:
        """Returns a model by its name.

        Raises:
            DefinitionError: the project has none of that name.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise DefinitionError(
            f"no model is called {name!r}", fix=f"use one of {', '.join(m.name for m in self.models)}"
        )

    def view(self, name: str) -> type[FeatureView]:
        """Returns a view by its class name.

        Raises:
            DefinitionError: the project has none of that name.
        """
        for view in self.views:
            if view.__name__ == name:
                return view
        raise DefinitionError(
            f"no view is called {name!r}", fix=f"use one of {', '.join(v.__name__ for v in self.views)}"
        )

    def check_learners(self) -> None:
        """Refuses learners whose versions could not be rebuilt, or that cannot take their inputs."""
        for model in self.models:
            model.check_learner()


def _views(models: Sequence[ModelSpec], more: Sequence[type[FeatureView]]) -> list[type[FeatureView]]:
    views: list[type[FeatureView]] = []
    for spec in models:
        for item in spec.inputs:
            if isinstance(item, type) and issubclass(item, FeatureView):
                views.append(item)
            elif isinstance(item, Input):
                views.extend(item.views)
            elif callable(item) and hasattr(item, "__code__"):
                views.extend(function_input(item, spec.request.event).views)
            elif isinstance(item, Feature) and item.view is not None:
                views.append(item.view)
    views.extend(more)
    return [view for k, view in enumerate(views) if view not in views[:k]]


def _refuse_twins(names: Sequence[str], what: str, where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DefinitionError(
                f"two {what} are called {name!r}",
                where=where,
                fix="rename one of them, or use one object for both",
            )
