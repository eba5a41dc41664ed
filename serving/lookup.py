"""The features of one entity, read as a model would read them, without a request of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

from features import keys
from features.clock import NEVER
from features.partition import partition_of
from features.plan import plan_for
from features.read import Reader
from features.view import FeatureView
from models.deployment import Deployment
from models.scorer import Place, decode_reads

from .reads import Reads


class Looked(NamedTuple):
    """The values of a view for one entity at one time."""

    values: dict[str, Any]
    as_of: dict[str, int]
    newest: int | None  # event time of the entity's newest event; None where it is unknown
    bounds: dict[str, int]
    flags: list[str]


class Lookup:
    """One view, compiled against the groups of a store."""

    def __init__(self, view: type[FeatureView], deployment: Deployment) -> None:
        self.view = view
        plan = plan_for(view, deployment.project.plans)
        assert plan is not None, "every view of a project has a plan"
        code = deployment.codes[plan.fingerprint]
        self._plan = plan
        self._reader = Reader(view, plan)
        self._prefixes = [
            (group, keys.state_prefix(group.tag, code)) for group in deployment.groups[plan.source.topic]
        ]

    async def at(self, reads: Reads, key: str, t: int) -> Looked:
        """Returns the values at a time, in one trip.

        Args:
            reads: of the store.
            key: the entity, in the text form of `features.source.key_text`.
            t: the time, in milliseconds.

        Raises:
            StoreError: the states cannot be read.
        """
        prefixes = self._prefixes
        if not self._plan.partial:
            prefixes = [prefixes[partition_of(key.encode(), len(prefixes))]]
        place = Place(self._plan, [(group, prefix + key) for group, prefix in prefixes], 0)
        wanted = {group: [name] for group, name in place.reads}
        states, positions = decode_reads([[place]], wanted, await reads.read(wanted))
        row = self._reader.read([states[name] for _, name in place.reads], t, None)
        name = self.view.__name__
        told = {"unknown": row.newest == NEVER, "late": row.late, "approximate": bool(row.bounds)}
        return Looked(
            dict(zip(self._reader.names, row.values, strict=True)),
            {group.name: positions[group] for group, _ in place.reads},
            None if row.newest == NEVER else row.newest,
            row.bounds,
            [f"{flag}:{name}" for flag, holds in told.items() if holds],
        )
