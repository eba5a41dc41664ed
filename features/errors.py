"""What can go wrong in the features room.

HeadraceError            every failure a user meets: what, where, why, fix
├── DefinitionError      the project file is wrong; nothing runs until it is mended
├── EventRefused         one event is bad input; it goes to the dead letters (the others go on)
├── StoreError           the store answered something that must not be ignored
│   ├── StoreUnavailable recoverable: pause and try again
│   └── StateCorrupt     fatal: a stored value is not what its position says
└── Fenced               another owner has claimed the fold group; stop writing to it
"""

from __future__ import annotations


class HeadraceError(Exception):
    """A failure told in four parts, so that its reader knows what to do next."""

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.what, self.where, self.why, self.fix = what, where, why, fix
        super().__init__(what)

    def __str__(self) -> str:
        parts = (("where", self.where), ("why", self.why), ("fix", self.fix))
        return self.what + "".join(f"\n  {name}: {text}" for name, text in parts if text)


class DefinitionError(HeadraceError):
    """A declaration of the project file cannot be built."""


class EventRefused(HeadraceError):
    """One event is not what its source declares; `reason` is the bounded label of metrics and dead letters."""

    def __init__(self, reason: str, what: str, *, where: str = "", fix: str = "") -> None:
        self.reason = reason
        super().__init__(what, where=where, fix=fix)


class StoreError(HeadraceError):
    """The store cannot be trusted or reached."""


class StoreUnavailable(StoreError):
    """The store did not answer; nothing is known to be lost."""


class StateCorrupt(StoreError):
    """A stored value contradicts its own header or its group's position."""


class Fenced(HeadraceError):
    """Another process owns the fold group now."""
