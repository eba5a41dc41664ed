"""A record of a log that takes back what stands before it: of one entity, by its key.

It is a record like any other, at an offset like any other, so a state stays the fold of the prefix that its position
names, whoever folds it and however often: there is no second place to look, and no moment at which to have looked.
"""

from __future__ import annotations

import msgspec

from .errors import EventRefused

FORGETTING = "forgetting"  # the reason by which a decoder of events passes such a record on
BEGINS = b'{"headrace.forget":'  # how its value does, and no event's


class Forgetting(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What is forgotten: the entity's name, and its key as text, as states and `features get` have it."""

    entity: str
    key: str


class _Record(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    what: Forgetting = msgspec.field(name="headrace.forget")


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Record)


def name_of(entity: str, key: str) -> str:
    """Returns entity and key in one; no name of an entity has the character between them."""
    return f"{entity}\0{key}"


def is_forgetting(value: bytes | None) -> bool:
    """Whether a record is such a one."""
    return value is not None and value.startswith(BEGINS)


def encode_forgetting(what: Forgetting) -> bytes:
    """Returns the value of the record."""
    return _encoder.encode(_Record(what))


def decode_forgetting(value: bytes) -> Forgetting:
    """Returns what a record forgets.

    Raises:
        EventRefused: it begins as one and is none.
    """
    try:
        return _decoder.decode(value).what
    except (msgspec.DecodeError, ValueError) as error:
        raise EventRefused(
            "undecodable", f"it begins as a record of what is forgotten, and is none: {error}"
        ) from None


def no_event() -> EventRefused:
    """Returns what a decoder of events raises at such a record: who may send events may not take others back."""
    return EventRefused(
        FORGETTING,
        "the record tells what is forgotten, and is no event",
        fix="send it with headrace forget; an event must not begin with that field",
    )
