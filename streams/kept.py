"""Kept versions of a model: where a rescoring may begin instead of at the first sample."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from models.errors import SnapshotError
from models.snapshot import Key, Snapshot, open_sealed
from models.spec import Model

from .learn_stage import MONITOR, kept_version


class Kept:
    """The versions that a learner kept beside its newest one, opened when one is asked for.

    Args:
        model: whose versions these are.
        cells: what the store keeps beside the model.
        keys: what may have sealed them.
        allow: modules of the project whose classes a learner may hold.
    """

    def __init__(
        self, model: Model, cells: Mapping[bytes, bytes], keys: Collection[Key], allow: Collection[str] = ()
    ) -> None:
        self.refused: dict[int, str] = {}
        """Versions that were asked for and are not trusted, with the reason."""
        self._model = model
        self._sealed = {kept_version(field): data for field, data in cells.items() if field != MONITOR}
        self._keys = keys
        self._allow = allow

    def newest(self, at_most: int) -> Snapshot | None:
        """Returns the newest version up to a number whose seal and digest hold, for the caller to train."""
        for version in sorted(self._sealed, reverse=True):
            if version > at_most or version in self.refused:
                continue
            try:
                found = open_sealed(self._sealed[version], self._keys, self._allow, check=True)
            except SnapshotError as error:
                self.refused[version] = error.why or error.what
                continue
            except Exception as error:  # noqa: BLE001 - unpickling runs constructors of the project
                self.refused[version] = f"it cannot be loaded: {type(error).__name__}: {error}"
                continue
            if (found.version, found.fingerprint) == (version, self._model.fingerprint):
                return found
            self.refused[version] = f"it holds version {found.version} of vector {found.fingerprint}"
        return None
