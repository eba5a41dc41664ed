"""The model as it is declared: what is asked, from which inputs, with which truth, by which learner."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Literal

from river import metrics as river_metrics

from features.errors import DefinitionError
from features.fingerprint import short_digest
from features.plan import StatePlan
from features.source import Source
from features.vector import Vector
from features.view import FeatureView

from .canonical import digest
from .determinism import Input, refuse_if_undetermined
from .join_rules import UNLABELLED
from .label import Label
from .learner import Learner
from .outcomes import Outcomes
from .task import Task, task_of
from .topics import log_topic, samples_topic

RIVER = version("river")

NAME = re.compile(r"[a-z][a-z0-9-]*")

Inputs = type[FeatureView] | Callable[..., Any] | object


class ModelSpec:
    """One model of a project.

    Args:
        name: lower-case word, part of topics and URLs.
        request: the source whose events are scored; it must have an id.
        inputs: in the order of the vector: columns of the request, views, single features, typed functions of the
            request and of views, and ready-made inputs such as `hour(Transaction.at)`.
        label: the later truth; without one the learner must be an anomaly detector.
        learner: any River estimator or pipeline, or an object with `learn_one` and `predict_one`. It stays untrained.
        threshold: a score from which on the decision is true.
        missing: how a missing input reaches the learner: "omit" leaves it out, as River's sparse models expect; "none"
            hands it over as None, for imputers.
        metrics: River metrics to keep besides those of the task.
    """

    def __init__(
        self,
        name: str,
        *,
        request: Source[Any],
        learner: Any,
        inputs: Sequence[Inputs] = (),
        label: Label | None = None,
        threshold: float | None = None,
        missing: Literal["omit", "none"] = "omit",
        metrics: Sequence[river_metrics.base.Metric] = (),
    ) -> None:
        where = f"ModelSpec({name!r})"
        if not NAME.fullmatch(name):
            raise DefinitionError(
                f"model name {name!r} is not usable", fix='use lower-case letters, such as "fraud"'
            )
        if request.compacted:
            raise DefinitionError(
                f"requests of {request.topic} are compacted",
                where=where,
                why="of the requests of one key the log keeps the newest alone: no other could be counted or verified",
                fix="ask for events of a topic that keeps all records, and look the table up in a view",
            )
        if request.id is None:
            raise DefinitionError(
                f"requests of {request.topic} have no id",
                where=where,
                why="an event could not be counted once, and no label could find its prediction",
                fix=f"give the source id={request.event.__name__}.<column>",
            )
        self.name = name
        self.request = request
        self.label = label
        self.learner = learner
        self.threshold = threshold
        self.missing: Literal["omit", "none"] = missing
        self.metrics = tuple(metrics)
        self.task: Task = task_of(learner, label.type if label else None)
        self._inputs = list(inputs)
        self._outcomes = Outcomes(request, label) if label else None

    def add(self, *inputs: Inputs) -> None:
        """Adds inputs after the model was declared: views over its own outcomes can only be written then."""
        self._inputs.extend(inputs)

    @property
    def inputs(self) -> tuple[Inputs, ...]:
        """What the vector is made of."""
        return tuple(self._inputs)

    @property
    def outcomes(self) -> Outcomes:
        """The labelled requests, as a source for views.

        Raises:
            DefinitionError: the model has no label.
        """
        if self._outcomes is None:
            raise DefinitionError(f"model {self.name!r} has no outcomes", fix="give it a label")
        return self._outcomes

    def bind(self, project: str) -> None:
        """Names the topics."""
        if self._outcomes is not None:
            self._outcomes.bind(samples_topic(project, self.name))


def _terms(label: Label) -> str:
    """Returns what decides which samples there are; the column by its name, wherever the file stands."""
    column = (str(label.value), label.value.type_text)
    return repr((*column, label.within, label.absent, label.counts, label.learn_corrections))


class Model:
    """A model compiled: its vector, and everything that its two runtimes share."""

    def __init__(self, project: str, spec: ModelSpec, plans: Sequence[StatePlan]) -> None:
        self.project = project
        self.spec = spec
        self.name = spec.name
        self.task = spec.task
        self.vector = Vector(spec.request, spec.inputs, plans)
        self.log_topic = log_topic(project, spec.name)
        self.samples_topic = samples_topic(project, spec.name)
        self.versions = f"python {platform.python_version()}, river {RIVER}"
        self.fingerprint = self.vector.fingerprint
        label = spec.label
        self.rules = label.terms if label else UNLABELLED.name
        self.learner_fingerprint = short_digest(
            "\n".join(
                (
                    self.fingerprint,
                    digest(spec.learner),
                    spec.missing,
                    RIVER,
                    _terms(label) if label else "",
                )
            ).encode()
        )

    def new_learner(self) -> Learner:
        """Returns the untrained learner: version 0."""
        label = self.spec.label
        return Learner(
            self.name,
            self.spec.learner,
            self.task,
            self.vector.names,
            self.fingerprint,
            self.spec.missing,
            label.learn_corrections if label else False,
            self.spec.metrics,
            self.rules,
        )

    def check_learner(self) -> None:
        """Refuses a learner that cannot take the inputs, or whose versions could not be rebuilt.

        Raises:
            LearnerError: naming the input or the parameter, and the fix.
        """
        inputs = [Input(slot.name, slot.type, slot.nullable) for slot in self.vector.slots]
        label = self.spec.label
        refuse_if_undetermined(
            self.spec.learner,
            inputs,
            self.task,
            label.type if label else None,
            missing="none" if self.spec.missing == "none" else "absent",
        )
