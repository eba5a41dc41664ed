"""From requests to predictions: which states they read, the vector, the score. The API and the worker both call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from features import keys
from features.clock import NEVER
from features.errors import EventRefused, StateCorrupt
from features.partition import partition_of
from features.plan import StatePlan
from features.small import newest_of, stamp_of
from features.state import Kept, opened
from features.store import Group, Read
from features.transforms import Scalar
from features.vector import Assembled

from .errors import ModelError
from .predictor import Prediction, Predictor
from .spec import Model


class Request(NamedTuple):
    """An event to be scored."""

    event: Any
    t: int  # its time
    partition: int  # where its record is, or goes


class Scored(NamedTuple):
    """A prediction, with what it was made of."""

    prediction: Prediction
    assembled: Assembled
    as_of: dict[str, int]  # group -> the offset up to which its events are in the vector


class Place(NamedTuple):
    """The keys of one request under one plan, a group each, and which of them its own event goes to."""

    plan: StatePlan
    reads: Sequence[tuple[Group, str]]
    home: int


class Scorer:
    """The reads of a model, compiled against the groups of a store.

    Args:
        model: what is asked.
        groups: for each topic, its groups in the order of the partitions.
        codes: the store's short code of each plan.
    """

    def __init__(self, model: Model, groups: Mapping[str, Sequence[Group]], codes: Mapping[str, str]) -> None:
        self.model = model
        self._wanted = []
        for wanted in model.vector.wanted:
            plan = wanted.plan
            code = codes[plan.fingerprint]
            prefixes = [(group, keys.state_prefix(group.tag, code)) for group in groups[plan.source.topic]]
            self._wanted.append((plan, wanted.key, prefixes))
        self.groups = tuple({group: None for _, _, prefixes in self._wanted for group, _ in prefixes})

    def places(self, request: Request) -> list[Place]:
        """Returns where the states of a request stand."""
        places = []
        for plan, key_of, prefixes in self._wanted:
            key = key_of(request.event)
            if plan.partial:
                home = request.partition if plan.source is self.model.spec.request else 0
                places.append(Place(plan, [(group, prefix + key) for group, prefix in prefixes], home))
            else:
                group, prefix = prefixes[partition_of(key.encode(), len(prefixes))]
                places.append(Place(plan, [(group, prefix + key)], 0))
        return places

    def reads(self, requests: Sequence[Sequence[Place]]) -> dict[Group, list[str]]:
        """Returns the keys that requests read, each once, by group."""
        wanted: dict[Group, dict[str, None]] = {}
        for places in requests:
            for place in places:
                for group, key in place.reads:
                    wanted.setdefault(group, {})[key] = None
        return {group: list(names) for group, names in wanted.items()}

    def score(
        self,
        request: Request,
        places: Sequence[Place],
        states: Mapping[str, Kept | None],
        predictor: Predictor,
    ) -> tuple[Prediction, Assembled]:
        """Returns the prediction for a request whose states are at hand.

        Raises:
            EventRefused: the request cannot be scored; others can.
        """
        assembled = self.assemble(request, places, states)
        try:
            return predictor.predict(assembled.vector), assembled
        except ModelError as error:
            raise EventRefused("not_scored", error.what, where=f"model {self.model.name}") from error

    def assemble(
        self, request: Request, places: Sequence[Place], states: Mapping[str, Kept | None]
    ) -> Assembled:
        """Returns the vector of a request whose states are at hand."""
        return self.model.vector.assemble(
            request.event,
            request.t,
            [[states.get(key) for _, key in place.reads] for place in places],
            [place.home for place in places],
        )

    def as_of(self, places: Sequence[Place], positions: Mapping[Group, int]) -> dict[str, int]:
        """Returns the positions behind a request's vector."""
        return {group.name: positions[group] for place in places for group, _ in place.reads}


def decode_reads(
    places: Sequence[Sequence[Place]], wanted: Mapping[Group, Sequence[str]], found: Mapping[Group, Read]
) -> tuple[dict[str, Kept | None], dict[Group, int]]:
    """Returns the states and positions of a read.

    Raises:
        StateCorrupt: a state was changed beyond the position that was read with it.
    """
    plans = {key: place.plan for request in places for place in request for _, key in place.reads}
    states: dict[str, Kept | None] = {}
    positions: dict[Group, int] = {}
    for group, names in wanted.items():
        position, values = found[group]
        positions[group] = 0 if position is None else position.next
        clock = NEVER if position is None else position.clock
        for key, data in zip(names, values, strict=True):
            if data is not None and stamp_of(data) > positions[group]:
                raise StateCorrupt(
                    f"a state was changed at {stamp_of(data)}, beyond position {positions[group]}",
                    where=f"{group.name}, key {key}",
                    fix="restore Redis from one backup, or rebuild the features under a new project name",
                )
            plan = plans[key]
            # an expired state reads as none, whether it has been removed yet or not
            expired = data is None or newest_of(data) <= clock - plan.retain
            states[key] = None if data is None or expired else opened(plan, data)
    return states, positions


def age_ms(request: Request, assembled: Assembled) -> int | None:
    """Returns how long before the request the newest event behind its vector happened; None where there is none."""
    return None if assembled.newest == NEVER else max(0, request.t - assembled.newest)


__all__ = ["Place", "Request", "Scalar", "Scored", "Scorer", "age_ms", "decode_reads"]
