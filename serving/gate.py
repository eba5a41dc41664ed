"""Who may ask for what: a request shows a key, and the key has a scope and a rate.

Everything is closed but what is listed as open; a route that nobody listed needs the scope `admin`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.types import Scope

from .errors import KeysUnusable
from .keyfile import Key, read
from .problems import Problem, forbidden, log, too_often, unauthorized

OPEN = frozenset({"/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
_KEY = "headrace.key"  # where the scope of a request keeps whose it is


def needed(method: str, path: str) -> str | None:
    """Returns the scope that a request needs; None where nobody is asked for a key."""
    if method == "POST":
        if path.startswith("/v1/models/") and path.endswith("/predict"):
            return "predict"
        if path.startswith("/v2/models/") and path.endswith("/infer"):
            return "predict"
        if path.startswith("/v1/events/"):
            return "ingest"
        return "label" if path.startswith("/v1/labels/") else "admin"
    if method == "GET":
        return None if path in OPEN or path.startswith("/static/") else "read"
    return "admin"


def must(scope: Scope, what: str) -> None:
    """Returns where the key of a request has a further scope, or no keys are asked for.

    Raises:
        Problem: 403.
    """
    key: Key | None = scope.get(_KEY)
    if key is not None and what not in key.grants:
        raise forbidden(key.id, what)


class Gate:
    """Admits requests by the keys of a file, which is read again when it changes.

    Rates are counted in the memory of this process, in windows that begin with a key's first request.

    Args:
        path: the file.
        now: the wall clock, in seconds.

    Raises:
        KeysUnusable: the file cannot be read, or a line of it is none.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._said = ""
        self._keys: dict[bytes, Key] = read(path)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def admit(self, scope: Scope) -> Problem | None:
        """Returns why a request is refused, None where it is not."""
        what = needed(scope["method"], scope["path"])
        if what is None:
            return None
        shown = _shown(scope)
        if shown is None:
            return unauthorized("", "this needs an API key")
        key = self._keys.get(sha256(shown).digest())
        if key is None:
            return unauthorized("invalid_token", "the API key is not known")
        if key.expires is not None and self._now() >= key.expires:
            return unauthorized("invalid_token", f"the API key {key.id} has expired")
        if what not in key.grants:
            return forbidden(key.id, what)
        if key.rate is not None and not self._limiter.hit(key.rate, key.id):
            until = self._limiter.get_window_stats(key.rate, key.id).reset_time
            return too_often(key.id, max(1, math.ceil(until - time.time())))
        scope[_KEY] = key
        return None

    async def follow(self, every: float = 1.0) -> None:
        """Looks for another content of the file, until it is cancelled."""
        while True:
            await asyncio.sleep(every)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Takes the file over if it can be used; else the keys stay as they were, and the log says why, once."""
        try:
            self._keys = read(self._path)
            self._said = ""
        except KeysUnusable as error:
            if str(error) != self._said:
                log.error("the API keys stay as they were: %s", error)
            self._said = str(error)


def _shown(scope: Scope) -> bytes | None:
    """Returns the secret that a request shows; that of Authorization, where both are there."""
    found = None
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:].strip())
        if name == b"x-api-key":
            found = bytes(value)
    return found
