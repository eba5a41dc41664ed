"""Events as they come in: bytes to an event of a source, or a problem that names the field."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from features.errors import EventRefused
from features.lookup import tombstone_in
from features.source import Source, Tombstone
from features.text import DEEPEST, check_json

from .problems import Problem, bad_field, too_large

_LARGEST_TIME = 1 << 53  # every reader of JSON keeps such a number whole
_AT = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"^Object missing required field `(.*?)`")
_BYTE = re.compile(r"\(byte (\d+)\)$")
_KEY_BEFORE = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:\s*(?:[-+]?\w*|"[^"]*)$')
_NEAR = 256  # bytes before an error in which its key is looked for: a hostile body must not make this slow
_NAMED = re.compile(r"^([\w.]+) (?:is|has|raised)\b")


class Incoming(NamedTuple):
    """One event, decoded, and the bytes that it came as."""

    event: Any  # a Tombstone where a key of a compacted source is cleared
    t: int
    raw: bytes


class Intake:
    """Decodes the events of one source and refuses those that must not reach its log.

    Args:
        source: whose events they are.
        now_ms: the wall clock.
        most: how many one array may hold.
    """

    def __init__(self, source: Source[Any], now_ms: Callable[[], int], most: int) -> None:
        self.source = source
        self._now_ms = now_ms
        self._most = most
        self._split = msgspec.json.Decoder(list[msgspec.Raw])
        self._row = msgspec.json.Decoder(dict[str, Any])

    def one(self, raw: bytes, place: str = "") -> Incoming:
        """Returns the event in a JSON object.

        Raises:
            Problem: 422 with the field, below `place`; 413 where the worker would refuse its size.
        """
        source = self.source
        if len(raw) > source.max_bytes:
            raise too_large(source.max_bytes)
        try:
            cleared = self._tombstone(raw) if source.compacted else None
            event = source.decode(raw) if cleared is None else cleared
        except EventRefused as refused:
            raise self.refusal(refused, place, raw) from refused
        t = source.time_of(event) if cleared is None else cleared.t
        latest = self._now_ms() + source.ahead
        if not -_LARGEST_TIME <= t <= latest:
            what = "before all time" if t < 0 else f"{t - latest + source.ahead} ms in the future"
            raise bad_field(
                _join(place, source.time.name), f"the event is {what}; {source.ahead} ms are allowed"
            )
        return Incoming(event, t, raw)

    def _tombstone(self, raw: bytes) -> Tombstone | None:
        try:
            check_json(raw)
            row = self._row.decode(raw)
        except (msgspec.DecodeError, ValueError):
            return None  # it is no event either
        return tombstone_in(self.source, row)

    def many(self, raw: bytes) -> list[Incoming]:
        """Returns the events of a JSON array.

        Raises:
            Problem: 422; it names the item and the field.
        """
        try:
            check_json(raw, DEEPEST + 1)
            items = self._split.decode(raw)
        except (msgspec.DecodeError, ValueError) as error:
            raise self.refusal(EventRefused("undecodable", str(error)), raw=raw) from error
        if len(items) > self._most:
            raise bad_field("", f"a batch may have {self._most} items, this one has {len(items)}")
        return [self.one(bytes(item), f"[{k}]") for k, item in enumerate(items)]

    def refusal(self, refused: EventRefused, place: str = "", raw: bytes = b"") -> Problem:
        """Returns the problem of a refused event."""
        message = refused.what + (f"; {refused.fix}" if refused.fix else "")
        return bad_field(_join(place, self._field(refused, raw)), message)

    def _field(self, refused: EventRefused, raw: bytes) -> str:
        text = refused.what
        if refused.reason == "naive_time":
            return self.source.time.name
        if refused.reason == "undecodable":
            at, missing = _AT.search(text), _MISSING.search(text)
            if at or missing:
                return _join(at[1] if at else "", missing[1] if missing else "")
            byte = _BYTE.search(text)
            end = int(byte[1]) if byte else 0
            before = _KEY_BEFORE.search(raw[max(0, end - _NEAR) : end])
            return before[1].decode(errors="replace") if before else ""
        named = _NAMED.search(text)
        return named[1].removeprefix(f"{self.source.event.__name__}.") if named else ""


def is_array(body: bytes) -> bool:
    """Whether a body is a JSON array rather than an object."""
    return body[:1] == b"[" or body.lstrip(b" \t\r\n")[:1] == b"["


def _join(place: str, field: str) -> str:
    return f"{place}.{field}" if place and field else place or field
