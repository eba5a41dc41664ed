"""The file of API keys: one line a key, with the SHA-256 of its secret and what it may do.

    # id     SHA-256 of the secret     scopes           and what else is said of it
    till-7   sha256:9f86d081...        predict,ingest   rate=200/second expires=2027-06-01T00:00:00Z

A secret is 256 random bits, so nobody finds it from its digest: what makes a hash slow protects passwords that people
think of, and would cost every request that time. A secret is looked up by its digest, which nobody can steer: how long
the look-up takes tells nothing of the secrets that are there.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from limits import RateLimitItem, parse

from .caller import SCOPES, Caller, granted
from .errors import KeysUnusable

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
HEAD = "# API keys of Headrace: id, SHA-256 of the secret, scopes; then rate= and expires= where they are set"


@dataclass(frozen=True)
class Key:
    """One key.

    Args:
        id: what logs and lists call it.
        digest: SHA-256 of its secret.
        scopes: what it may do, as the file says.
        rate: requests that it may make in a time, None without a bound.
        expires: seconds since 1970 from which it is refused, None for never.
    """

    id: str
    digest: bytes = field(repr=False)
    scopes: tuple[str, ...]
    rate: RateLimitItem | None = None
    expires: float | None = None
    caller: Caller = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "caller", Caller(f"API key {self.id}", granted(self.scopes), self.rate))

    def line(self) -> str:
        """Returns its line of the file."""
        words = [self.id, f"sha256:{self.digest.hex()}", ",".join(self.scopes)]
        if self.rate is not None:
            words.append(f"rate={rate_text(self.rate)}")
        if self.expires is not None:
            words.append(f"expires={time_text(self.expires)}")
        return " ".join(words)


def drawn() -> tuple[str, bytes]:
    """Returns a new secret and its digest."""
    secret = "hr_" + secrets.token_urlsafe(32)
    return secret, sha256(secret.encode()).digest()


def by_digest(text: str, where: str) -> dict[bytes, Key]:
    """Returns the keys of a file by the digests of their secrets, in its order.

    Raises:
        KeysUnusable: a line is none; it names the line and never shows it, since it may hold a secret.
    """
    found: dict[bytes, Key] = {}
    ids: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            key = _key(words, ids, found)
        except ValueError as error:
            raise KeysUnusable(
                "a line of the API keys is not usable",
                where=f"{where}:{number}",
                why=str(error),
                fix="write id, sha256:DIGEST and scopes, or make the line with headrace keys new",
            ) from None
        ids.add(key.id)
        found[key.digest] = key
    return found


def read(path: Path) -> dict[bytes, Key]:
    """Returns the keys of a file.

    Raises:
        KeysUnusable: it cannot be read, or a line is none.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysUnusable(
            "the file of API keys cannot be read",
            where=str(path),
            why=getattr(error, "strerror", None) or "it is no text",
            fix="make one with headrace keys new FILE --id NAME --scope predict",
        ) from None
    return by_digest(text, str(path))


def scopes_of(words: Iterable[str]) -> tuple[str, ...]:
    """Returns scopes in their order.

    Raises:
        ValueError: one is not known, or there is none.
    """
    given = set(words)
    if not given or not given <= SCOPES.keys():
        raise ValueError(f"scopes are some of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in given)


def rate_of(text: str) -> RateLimitItem:
    """Returns a rate such as `200/second` or `5000/hour`.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,8}/(second|minute|hour|day)", text):
        raise ValueError("a rate is a number of requests for a second, minute, hour or day: 200/second")
    return parse(text)


def rate_text(rate: RateLimitItem) -> str:
    """Returns a rate as it is written."""
    return f"{rate.amount}/{rate.GRANULARITY.name}"


def time_of(text: str) -> float:
    """Returns a moment of ISO 8601 with a zone, in seconds since 1970.

    Raises:
        ValueError: it is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ValueError("a moment is ISO 8601 with a zone: 2027-06-01T00:00:00Z")
    return found.timestamp()


def time_text(seconds: float) -> str:
    """Returns a moment as it is written."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def check_id(text: str) -> str:
    """Returns an id.

    Raises:
        ValueError: it has other characters, or too many.
    """
    if not _ID.fullmatch(text):
        raise ValueError("an id has up to 64 letters, digits, dots, underscores and dashes")
    return text


def _key(words: list[str], ids: Collection[str], digests: Collection[bytes]) -> Key:
    if len(words) < 3:
        raise ValueError("it has fewer than three words")
    named, digest, scopes, *rest = words
    check_id(named)
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise ValueError("its second word is not sha256: and 64 hexadecimal digits in lower case")
    if named in ids or bytes.fromhex(found[1]) in digests:
        raise ValueError("its id or its digest stands on an earlier line as well")
    more = _more(rest)
    return Key(
        named,
        bytes.fromhex(found[1]),
        scopes_of(scopes.split(",")),
        rate_of(more["rate"]) if "rate" in more else None,
        time_of(more["expires"]) if "expires" in more else None,
    )


def _more(words: list[str]) -> Mapping[str, str]:
    pairs = [word.partition("=") for word in words]
    names = [name for name, _, _ in pairs]
    if not set(names) <= {"rate", "expires"} or len(set(names)) < len(names):
        raise ValueError("after the scopes stand rate= and expires=, each at most once")
    return {name: value for name, _, value in pairs}
