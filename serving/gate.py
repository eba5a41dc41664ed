"""Who may ask for what: a request shows a key or a token, which has scopes and a rate.

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

from .caller import Caller
from .errors import KeysUnusable
from .keyfile import Key, read
from .problems import Problem, forbidden, log, too_often, unauthorized
from .tokens import Tokens

OPEN = frozenset({"/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
_CALLER = "headrace.caller"  # where the scope of a request keeps whose it is


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
    """Returns where the caller of a request has a further scope, or nobody is asked who it is.

    Raises:
        Problem: 403.
    """
    caller: Caller | None = scope.get(_CALLER)
    if caller is not None and what not in caller.grants:
        raise forbidden(caller.name, what)


class Gate:
    """Admits requests by the keys of a file, which is read again when it changes, by tokens of an issuer, or both.

    Rates are counted in the memory of this process, in windows that begin with a caller's first request.

    Args:
        path: the file; None where there are tokens only.
        now: the wall clock, in seconds.
        tokens: knows callers by tokens.

    Raises:
        KeysUnusable: the file cannot be read, or a line of it is none.
    """

    def __init__(
        self, path: Path | None, now: Callable[[], float] = time.time, tokens: Tokens | None = None
    ) -> None:
        self._path = path
        self._now = now
        self._tokens = tokens
        self._said = ""
        self._keys: dict[bytes, Key] = {} if path is None else read(path)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def admit(self, scope: Scope) -> Problem | None:
        """Returns why a request is refused, None where it is not."""
        what = needed(scope["method"], scope["path"])
        if what is None:
            return None
        shown, bearer = _shown(scope)
        if shown is None:
            return unauthorized("", "this needs an API key or a token")
        # a key has no dot, and a token has two
        if self._tokens is not None and bearer and b"." in shown:
            caller = await self._tokens.caller(shown)
        else:
            caller = self._holder(shown)
        if isinstance(caller, Problem):
            return caller
        if what not in caller.grants:
            return forbidden(caller.name, what)
        if caller.rate is not None and not self._limiter.hit(caller.rate, caller.name):
            until = self._limiter.get_window_stats(caller.rate, caller.name).reset_time
            return too_often(caller.name, max(1, math.ceil(until - time.time())))
        scope[_CALLER] = caller
        return None

    def _holder(self, secret: bytes) -> Caller | Problem:
        key = self._keys.get(sha256(secret).digest())
        if key is None:
            return unauthorized("invalid_token", "the API key is not known")
        if key.expires is not None and self._now() >= key.expires:
            return unauthorized("invalid_token", f"the API key {key.id} has expired")
        return key.caller

    async def follow(self, every: float = 1.0) -> None:
        """Looks for another content of the file, and for other keys of the issuer, until it is cancelled."""
        async with asyncio.TaskGroup() as both:
            if self._path is not None:
                both.create_task(self._follow_file(every))
            if self._tokens is not None:
                both.create_task(self._tokens.jwks.follow())

    async def _follow_file(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Takes the file over if it can be used; else the keys stay as they were, and the log says why, once."""
        if self._path is None:
            return
        try:
            self._keys = read(self._path)
            self._said = ""
        except KeysUnusable as error:
            if str(error) != self._said:
                log.error("the API keys stay as they were: %s", error)
            self._said = str(error)


def _shown(scope: Scope) -> tuple[bytes | None, bool]:
    """Returns what a request shows, and whether as a bearer; that of Authorization, where both headers are there."""
    found = None
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:].strip()), True
        if name == b"x-api-key":
            found = bytes(value)
    return found, False
