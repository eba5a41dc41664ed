"""The public keys of an issuer of tokens: a JSON Web Key Set (RFC 7517), from an address or a file.

It is fetched beside the requests, now and then, and when a token names a key that is not in it. Whoever makes up names
cannot make it be fetched more often than once in a pause. What cannot be fetched leaves the keys as they were.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from .errors import IssuerUnusable
from .problems import log

ALGORITHMS = ("RS256", "ES256", "EdDSA")
_SECONDS = 5.0  # that the issuer may take for each part of its answer, twice that for all of it
_BYTES = 1 << 20
_WAITING = 64  # requests that wait for a fetch; more are answered as if it had brought nothing


class Jwks:
    """The keys of one issuer, by their ids. For one event loop.

    Args:
        where: an address with https, one with http on this machine, or the path of a file.
        every: seconds between two fetches; by default 300, and 1 for a file.
        pause: the fewest seconds between two fetches that unknown ids ask for.
        now: a monotonic clock, in seconds.

    Raises:
        IssuerUnusable: the address is none that can be trusted, or the file cannot be used.
    """

    def __init__(
        self,
        where: str,
        *,
        every: float | None = None,
        pause: float = 10.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._where = where
        self._remote = "://" in where
        self._every = every or (300.0 if self._remote else 1.0)
        self._pause, self._now = pause, now
        self._keys: Mapping[str, PyJWK] | None = None
        self._tried = -1e18
        self._waiting = 0
        self._turn = asyncio.Lock()
        self._said = ""
        if self._remote:
            _check(where)
        else:
            self._keys = keys_of(self._read(), where)

    @property
    def there(self) -> bool:
        """Whether the keys have ever been fetched."""
        return self._keys is not None

    async def key(self, ident: str) -> PyJWK | None:
        """Returns the key of an id; None where the issuer has none of it, as far as anybody knows."""
        found = (self._keys or {}).get(ident)
        if found is None and self._waiting < _WAITING:
            self._waiting += 1
            try:
                async with self._turn:
                    found = (self._keys or {}).get(ident)  # another one may have fetched it meanwhile
                    if found is None and self._now() - self._tried >= self._pause:
                        await self._fetch()
                        found = (self._keys or {}).get(ident)
            finally:
                self._waiting -= 1
        return found

    async def follow(self) -> None:
        """Fetches the keys now and then, so that one that was withdrawn is forgotten; until it is cancelled."""
        while True:
            async with self._turn:
                await self._fetch()
            await asyncio.sleep(self._every if self.there else min(self._pause, self._every))

    async def _fetch(self) -> None:
        self._tried = self._now()
        try:
            async with asyncio.timeout(2 * _SECONDS):
                text = await asyncio.to_thread(self._read)
            self._keys, said = keys_of(text, self._where), ""
        except IssuerUnusable as error:
            said = str(error)
        except TimeoutError:
            said = f"{self._where} has not answered in {2 * _SECONDS:g} s"
        if said and said != self._said:
            log.error("the keys of the issuer stay as they were: %s", said)
        self._said, self._tried = said, self._now()

    def _read(self) -> bytes:
        try:
            if not self._remote:
                return Path(self._where).read_bytes()
            with _OPENER.open(self._where, timeout=_SECONDS) as answer:
                text: bytes = answer.read(_BYTES + 1)
        except (OSError, HTTPException, ValueError) as error:
            raise _unusable(self._where, str(error)) from error
        if len(text) > _BYTES:
            raise _unusable(self._where, f"it has more than {_BYTES} bytes")
        return text


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Go nowhere else: the address was chosen with care."""


_OPENER = urllib.request.build_opener(_Stay)


def keys_of(text: bytes, where: str) -> dict[str, PyJWK]:
    """Returns the keys of a set that can sign tokens, by their ids.

    Left out is what we would not trust: secret keys, keys without an id or for something else, RSA of less than 2048
    bits, and other algorithms.

    Raises:
        IssuerUnusable: it is no set, or no key is left.
    """
    try:
        listed = json.loads(text)["keys"]
        found = {
            one["kid"]: key
            for one in reversed(listed)  # of two with one id, the first
            if isinstance(one, dict) and isinstance(one.get("kid"), str) and (key := _key(one)) is not None
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _unusable(where, "it is no JSON Web Key Set") from None
    if not found:
        raise _unusable(
            where, f"it has no key that can be used: public, with a kid, for {', '.join(ALGORITHMS)}"
        )
    return found


def _key(one: dict[str, Any]) -> PyJWK | None:
    if "d" in one or one.get("use", "sig") != "sig" or one.get("kty") == "oct":
        return None
    try:
        key = PyJWK(one)
    except (PyJWTError, ValueError, TypeError):
        return None
    weak = key.Algorithm.check_key_length(key.key)
    return key if key.algorithm_name in ALGORITHMS and not weak else None


def _check(where: str) -> None:
    parts = urlsplit(where)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or not _here(parts.hostname or ""):
        raise _unusable(where, "whoever is on the way could exchange the keys")


def _here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _unusable(where: str, why: str) -> IssuerUnusable:
    return IssuerUnusable(
        "the keys of the issuer of tokens cannot be used",
        where=where,
        why=why,
        fix="give --jwks the https address of a JSON Web Key Set, or a file of one",
    )
