"""Scoring without the store: what the request alone tells, everything else missing."""

from __future__ import annotations

from types import FunctionType

from features.aggregation import Feature
from features.errors import EventRefused
from features.transforms import Input, Scalar, function_input
from features.view import FeatureView
from models.errors import ModelError, NonFiniteScore
from models.predictor import Prediction, Predictor
from models.scorer import Request
from models.spec import Model


class FromRequest:
    """The inputs of a model that need no state."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known = [known for item in model.spec.inputs for known in _slots(item, model)]

    def vector(self, request: Request) -> list[Scalar]:
        """Returns the vector with None in every slot that a state has a part in.

        Raises:
            EventRefused: an input cannot be made of this request.
        """
        vector = self._model.vector
        none = [[None] for _ in vector.wanted]
        assembled = vector.assemble(request.event, request.t, none, [0] * len(none))
        return [value if known else None for value, known in zip(assembled.vector, self._known, strict=True)]

    def predict(self, predictor: Predictor, vector: list[Scalar]) -> Prediction:
        """Returns the score of such a vector.

        Raises:
            EventRefused: a number that no model must see.
            NonFiniteScore: the model has no answer.
        """
        try:
            return predictor.predict(vector)
        except NonFiniteScore:
            raise
        except ModelError as error:
            raise EventRefused("not_scored", error.what, where=f"model {self._model.name}") from error


def _slots(item: object, model: Model) -> list[bool]:
    """Returns, for each slot of an input, whether the request alone gives it."""
    if isinstance(item, type) and issubclass(item, FeatureView):
        return [False for feature in item.features for _ in range(feature.aggregation.width)]
    if isinstance(item, Feature):
        return [False] * item.aggregation.width
    if isinstance(item, FunctionType):
        return [not function_input(item, model.spec.request.event).views]
    return [not item.views] if isinstance(item, Input) else [True]
