"""What became of the requests, as a source: the request's columns and the label, at the time the label arrived.

The share of frauds at a terminal is then `Mean(Chargeback.fraud)` over the outcomes by terminal. Nothing leaks: an
outcome stands at the time at which it was known: that of the label, or of the record of the model's log that told that
none will come.
"""

from __future__ import annotations

from typing import Any

import msgspec

from features.clock import NEVER
from features.column import Column, column_of
from features.errors import EventRefused
from features.forgetting import BEGINS, no_event
from features.source import Source

from .label import Label
from .records import Sample, decode_sample


class Outcome(msgspec.Struct, frozen=True):
    """One labelled request."""

    id: str
    event: Any  # the request's event, decoded
    label: bool | int | float | str
    at: int  # when the label, or that there is none, was known: in milliseconds; NEVER for one of other rules
    kind: str  # "label" or "absent"; a "correction" is not counted again


class Outcomes(Source[Outcome]):
    """The samples of a model, read as events of their own.

    Args:
        request: the source whose events are scored.
        label: of the model; what was joined by other rules than its own is no outcome.
    """

    def __init__(self, request: Source[Any], label: Label) -> None:
        super().__init__(
            "headrace.unbound.samples.v1",  # named when the project is
            Outcome,
            id=Outcome.id,
            time=Outcome.at,
            lateness=f"{label.source.lateness}ms",
        )
        self.request = request
        self.label = label.value
        self.rules = label.terms
        self.filter = not_correction

    def bind(self, topic: str) -> None:
        """Names the topic, once the project that owns the model is known."""
        self.topic = topic

    def decode(self, value: bytes) -> Outcome:
        """Returns the outcome of a sample's JSON."""
        if value.startswith(BEGINS):
            raise no_event()
        try:
            sample = decode_sample(value)
        except msgspec.DecodeError as error:
            raise EventRefused("undecodable", str(error), where=self.topic) from None
        return self.of(sample)

    def of(self, sample: Sample) -> Outcome:
        """Returns the outcome that a sample stands for."""
        event = self.request.decode(bytes(sample.event))
        known = sample.known if sample.of(self.rules) else NEVER
        return Outcome(sample.id, event, sample.label, known, sample.kind)

    def event_classes(self) -> tuple[type, ...]:
        """Returns the classes whose columns an outcome has: its own and the request's."""
        return (Outcome, self.request.event)

    def locate(self, column: Column) -> str | None:
        """Returns the path of a column: one of the request, or the label's."""
        if column == self.label:
            return "label"
        inner = self.request.locate(column)
        return f"event.{inner}" if inner is not None else super().locate(column)

    def column_at(self, path: str) -> Column | None:
        """Returns the column at a path: one of the request, or the label's."""
        if path == "label":
            return self.label
        outer, _, inner = path.partition(".")
        return self.request.column_at(inner) if outer == "event" and inner else super().column_at(path)


def not_correction(outcome: Outcome) -> bool:
    """Tells outcomes that count from corrections of ones that have been counted."""
    return outcome.kind != "correction"


def label_column(attribute: object) -> Column:
    """Returns the column of a label's value."""
    return column_of(attribute, "value")
