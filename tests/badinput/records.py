"""Records as they should not be: every kind with the reason that its dead letter must have."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from features.partition import partition_of
from models.project import Project
from tests.streams.shop import DAY, HOUR, MINUTE, START, Payment, Verdict, build, business

PARTITIONS = 4
MAX_BYTES = 20_000  # of payments: a little is too much, so that many can be
LARGE = (920_000, 1_000_100, 1_040_000)  # what the broker takes, and what does not fit again with headers
DEEP = 64  # levels that a record may have


class Made(NamedTuple):
    """A record to be produced, and the reason for which it must be refused; None where it must not."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int
    timestamp: int
    reason: str | None = None


Spoil = Callable[[bytes, random.Random], bytes]


def _with(field: str, text: str) -> Spoil:
    """Puts JSON text in the place of a field's value."""

    def spoil(value: bytes, _: random.Random) -> bytes:
        fields = [f'"{name}":{text if name == field else msgspec.json.encode(each).decode()}'
                  for name, each in msgspec.json.decode(value).items()]  # fmt: skip
        return f"{{{','.join(fields)}}}".encode()

    return spoil


def _more(text: bytes) -> Spoil:
    """Adds a field that the event does not have."""
    return lambda value, _: value[:-1] + b',"more":' + text + b"}"


def _nested(deep: int, left: bytes = b"[", right: bytes = b"]") -> bytes:
    return left * deep + right * deep


def _torn(value: bytes, chance: random.Random) -> bytes:
    return value[: chance.randrange(len(value))]


def _noise(_: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(1, 200))


def _without(field: str) -> Spoil:
    def spoil(value: bytes, _: random.Random) -> bytes:
        fields = msgspec.json.decode(value)
        del fields[field]
        return msgspec.json.encode(fields)

    return spoil


def _digits(count: int) -> str:
    return "1" + "0" * count


# Each is (reason, what makes it of a good value).
EITHER: list[tuple[str, Spoil]] = [
    ("undecodable", lambda value, _: b""),
    ("undecodable", lambda value, _: b" "),
    ("undecodable", lambda value, _: b"{"),
    ("undecodable", lambda value, _: b"null"),
    ("undecodable", lambda value, _: b"[" + value + b"]"),
    ("undecodable", lambda value, _: b'"' + value.replace(b'"', b"'") + b'"'),
    ("undecodable", lambda value, _: value + value),
    ("undecodable", lambda value, _: value[:-1] + b",}"),
    ("undecodable", lambda value, _: value.replace(b'"', b"'")),
    ("undecodable", lambda value, _: value.replace(b":", b"=")),
    ("undecodable", _torn),
    ("undecodable", _noise),
    # other encodings
    ("undecodable", lambda value, _: value.decode().encode("utf-16")),
    ("undecodable", lambda value, _: value.decode().encode("utf-32-be")),
    ("undecodable", lambda value, _: b"\xef\xbb\xbf" + value),
    ("undecodable", _more(b'"\xff\xfe"')),
    ("undecodable", _more(b'"\xed\xa0\x80"')),
    ("undecodable", _more(b'"\\ud800"')),
    # nested
    ("undecodable", _more(_nested(DEEP))),
    ("undecodable", _more(_nested(700))),
    ("undecodable", _more(_nested(900))),
    ("undecodable", _more(_nested(9_000))),
    ("undecodable", _more(_nested(3_000, b'{"a":', b"}").replace(b"::", b":"))),
    ("undecodable", lambda value, _: _nested(9_000)),
    ("undecodable", lambda value, _: b"[" * 19_000),
    # numbers, in fields that nobody reads
    ("undecodable", _more(b"NaN")),
    ("undecodable", _more(b"-Infinity")),
    # times
    ("undecodable", _with("at", "true")),
    ("undecodable", _with("at", "null")),
    ("undecodable", _with("at", "1.5")),
    ("undecodable", _with("at", '"2026-01-01T00:00:00Z"')),
    ("undecodable", _with("at", "NaN")),
    ("undecodable", _with("at", "1e400")),
    ("undecodable", _with("at", _digits(5_000))),
    ("undecodable", _without("at")),
    *(("time_out_of_range", _with("at", str(n))) for n in (2**53, 2**63, 2**64, -(2**63), -(2**70))),
    ("time_out_of_range", _with("at", _digits(400))),
]  # fmt: skip
PAYMENT: list[tuple[str, Spoil]] = [
    ("too_large", _more(b'"' + b"x" * MAX_BYTES + b'"')),
    ("too_large", _more(_nested(MAX_BYTES))),
    *(
        ("undecodable", _with("amount", text))
        for text in ("NaN", "Infinity", "-Infinity", "nan", "1e309", "-1e400", _digits(400), "true", "null",
                     '"1"', '"NaN"', "[1]", "{}", "0x10", "1_000", "01", ".5", "+1")
    ),
    *(("number_out_of_range", _with("amount", text)) for text in ("1e308", "-1e29", "1e40", _digits(30))),
    *(("undecodable", _with("card", text)) for text in ("7", "null", "true", "[]", '"\\udc00"')),
    ("undecodable", _without("amount")),
    ("undecodable", _without("id")),
]  # fmt: skip
VERDICT: list[tuple[str, Spoil]] = [
    *(
        ("undecodable", _with("fraud", text))
        for text in ("1", "0", '"true"', "null", "NaN", "[true]", "1e308")
    ),
    ("undecodable", _without("payment")),
    ("undecodable", _with("payment", _digits(20))),
]
# Odd, and as good as any other.
ODD: list[Spoil] = [
    _more(b"1e308"),
    _more(str(2**70).encode()),
    _more(_nested(DEEP - 1)),
    _more(b'"[[[[{{{{' + b"[" * 200 + b'"'),
    _more(b'"\\u0000 \xc3\xa9 \xf0\x9f\x92\xa7"'),
    lambda value, _: b" \n\t" + value.replace(b",", b" ,\n") + b"\r\n",
    lambda value, _: value[:-1] + b',"at":' + str(msgspec.json.decode(value)["at"]).encode() + b"}",  # twice
]
LOGGED: list[bytes] = [
    b"",
    b"?",
    b"{}",
    b'{"type":"nothing"}',
    b'{"type":"label","id":"\xff","t":1,"label":true,"from":"x/0","offset":0}',
    b'{"type":"label","id":"x","t":1,"label":NaN,"from":"x/0","offset":0}',
    b'{"type":"label","id":"x","t":1,"label":' + _digits(30).encode() + b',"from":"x/0","offset":0}',
    b'{"type":"label","id":"x","t":1.5,"label":true,"from":"x/0","offset":0}',
    b'{"type":"label","id":"x","t":1,"label":true,"from":"x/0","offset":-1}',
    b'{"type":"label","id":"x","t":9007199254740993,"label":true,"from":"x/0","offset":0}',
    b'{"type":"progress","from":"x/0","offset":18446744073709551616,"t":0}',
    b'{"type":"sample","more":' + _nested(5_000) + b"}",
    b'{"type":"prediction","more":' + _nested(950) + b"}",
    _nested(9_000),
]


class Stream(NamedTuple):
    """Records in the order in which they are produced, and what happened according to the good ones."""

    records: Iterator[Made]
    payments: list[Payment]
    verdicts: list[Verdict]


def project(prefix: str) -> Project:
    """The project that the records are for."""
    return build(prefix, max_bytes=MAX_BYTES)


def stream(prefix: str, records: int, share: float, seed: int) -> Stream:
    """Returns about so many records, of which a share is bad: good payments and verdicts, and spoilt ones between.

    The first of each thousand bad ones are as large as the broker takes. The last good ones are of another millennium.
    """
    chance = random.Random(seed)
    count = max(1, round(records * (1 - share) / 2))
    many = 30 + count // 200  # cards and shops: few enough events of each that every count is exact
    good = business(count, seed=seed, step=MINUTE, delay=HOUR, cards=many, shops=many)
    payments, verdicts = list(good.payments), list(good.verdicts)
    stray = payments[-1].at + 365_000 * DAY
    payments[-1] = msgspec.structs.replace(payments[-1], card="future", shop="future", at=stray)
    verdicts[-1] = msgspec.structs.replace(verdicts[-1], shop="future", at=stray + HOUR)
    bad = round(records * share)
    return Stream(_mixed(prefix, payments, verdicts, bad, chance), payments, verdicts)


def _mixed(
    prefix: str, payments: list[Payment], verdicts: list[Verdict], bad: int, chance: random.Random
) -> Iterator[Made]:
    spoilt = 0
    most = len(payments)
    for k, (payment, verdict) in enumerate(zip(payments, verdicts, strict=True)):
        yield _good(f"{prefix}.payments.v1", payment, payment.card.encode(), chance)
        yield _good(f"{prefix}.verdicts.v1", verdict, verdict.payment.encode(), chance)
        while spoilt * most < bad * (k + 1):
            yield _spoilt(prefix, payment, verdict, spoilt, chance)
            spoilt += 1


def _good(topic: str, event: Payment | Verdict, key: bytes, chance: random.Random) -> Made:
    value = msgspec.json.encode(event)
    if chance.random() < 0.2:
        value = chance.choice(ODD)(value, chance)
    return Made(topic, key, value, partition_of(key, PARTITIONS), _stamp(event.at))


def _spoilt(prefix: str, payment: Payment, verdict: Verdict, number: int, chance: random.Random) -> Made:
    payments, verdicts = f"{prefix}.payments.v1", f"{prefix}.verdicts.v1"
    key = payment.card.encode()
    home, t = partition_of(key, PARTITIONS), _stamp(payment.at)
    # what the good one must not be taken for, should it be folded after all
    value = msgspec.json.encode(msgspec.structs.replace(payment, id=f"bad{number}", amount=1e6))
    if number % 1000 < len(LARGE):
        large = _more(b'"' + b"x" * (LARGE[number % 1000] - len(value) - 12) + b'"')
        return Made(payments, key, large(value, chance), home, t, "too_large")
    kind = chance.randrange(10)
    if kind == 0:
        return Made(payments, key, None, home, t, "no_value")
    if kind == 1:
        return Made(payments, None, value, home, t, "no_key")
    if kind == 2:
        return Made(
            payments, key, value, (home + chance.randrange(1, PARTITIONS)) % PARTITIONS, t, "misplaced"
        )
    if kind == 3:
        log = f"headrace.{prefix}.fraud.{chance.choice(['log', 'samples'])}.v1"
        return Made(log, b"x", chance.choice(LOGGED), 0, t, "undecodable")
    if kind < 7:
        reason, spoil = chance.choice(EITHER + PAYMENT)
        return Made(payments, key, spoil(value, chance), home, t, reason)
    reason, spoil = chance.choice(EITHER + VERDICT)
    key = verdict.payment.encode()
    value = msgspec.json.encode(msgspec.structs.replace(verdict, payment=f"bad{number}"))
    return Made(verdicts, key, spoil(value, chance), partition_of(key, PARTITIONS), t, reason)


def _stamp(t: int) -> int:
    """The time of a record: its broker refuses what lies in the future, but not the event in it."""
    return t if t < START + 365 * DAY else START
