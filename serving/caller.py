"""Who asks, whatever it was known by: what it may do, and how often."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from limits import RateLimitItem

SCOPES = {
    "predict": "predictions",
    "read": "features, models, status, metrics and the documents of the API",
    "ingest": "events of sources that are no labels",
    "label": "labels",
    "admin": "everything",
}


class Caller(NamedTuple):
    """Who asks; its name stands in problems and counts its requests."""

    name: str
    grants: frozenset[str]
    rate: RateLimitItem | None = None


def granted(scopes: Collection[str]) -> frozenset[str]:
    """Returns the scopes of ours that some open; others mean nothing here."""
    return frozenset(SCOPES) if "admin" in scopes else frozenset(SCOPES).intersection(scopes)
