"""Every key in Redis.

A fold group has one hash tag, so all of it lives in one slot of a cluster; tags are short because a key costs more
than a state. Two letters beside the number choose the slot, so that groups spread; older deployments have `{g<n>}`.

    {7qy}@             position of the group: topic id, next offset, clock, token
    {7qy}@score        position of another reader of the same partition: score, join or learn
    {7qy}a.<entity>    state of an entity under the plan with code `a`
    {7qy}mark          what the owner of the group tells other workers: time of its next record and request
    {7qy}join          pending predictions of a model's log, a hash
    {7qy}model         newest snapshot of a model
    {7qy}kept          the metrics that belong to it and some earlier versions, a hash
    headrace:groups   which group has which tag, a hash
    headrace:plans    which state fingerprint has which code, a hash
    headrace:status   what each process says of itself, a hash
    headrace:topics   how many partitions a topic had when its groups were made, a hash
    headrace:layouts/<project>/<topic>   which states serve which file, a hash
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import lru_cache
from itertools import product

GROUPS = "headrace:groups"
PLANS = "headrace:plans"
TOPICS = "headrace:topics"
STATUS = "headrace:status"

SLOTS = 16_384  # of a cluster

_DIGITS = "abcdefghijklmnopqrstuvwxyz"
_PAIRS = ["".join(pair) for pair in product(_DIGITS, repeat=2)]
_GOLDEN = 10_125  # slots from one group to the next: their golden section, and without a common divisor


def slot(key: bytes) -> int:
    """Returns the slot of a key in a cluster: that of what stands in its first braces, if anything does."""
    _, opened, rest = key.partition(b"{")
    tagged, closed, _ = rest.partition(b"}")
    return crc_hqx(tagged if opened and closed and tagged else key, 0) % SLOTS


@lru_cache(1 << 10)  # a search through hundreds of names
def spread(number: int) -> str:
    """Returns what stands in the tag of a group, chosen so that any consecutive ones lie evenly over the slots.

    Successive multiples of the golden section lie evenly however many they are and wherever they begin; the plain
    numbers do not: of the 64 groups from `{g158}` on, ten of sixteen masters would have none.
    """
    wanted = number * _GOLDEN % SLOTS

    def distance(name: str) -> int:
        off = abs(slot(name.encode()) - wanted)
        return min(off, SLOTS - off)

    return min((f"{number}{pair}" for pair in _PAIRS), key=distance)


def tag(named: str) -> str:
    """Returns the hash tag of a group from what the store has for it: what `spread` gave, or once just a number."""
    return f"{{g{named}}}" if named.isdigit() else f"{{{named}}}"


def position(group_tag: str, reader: str = "") -> str:
    """Returns the key of a reader's position; the group's own has no name."""
    return f"{group_tag}@{reader}"


def mark(group_tag: str) -> str:
    """Returns the key of what the owner of a group tells other workers."""
    return f"{group_tag}mark"


def state_prefix(group_tag: str, code: str) -> str:
    """Returns what stands before the entity in the key of a state."""
    return f"{group_tag}{code}."


def layouts(project: str, topic: str) -> str:
    """Returns the key of the layouts of a project's topic."""
    return f"headrace:layouts/{project}/{topic}"


def join(group_tag: str) -> str:
    """Returns the key of a join's pending predictions."""
    return f"{group_tag}join"


def model(group_tag: str) -> str:
    """Returns the key of a model's newest snapshot."""
    return f"{group_tag}model"


def kept(group_tag: str) -> str:
    """Returns the key of what is kept beside a model's newest snapshot, a hash."""
    return f"{group_tag}kept"


def code(number: int) -> str:
    """Returns the short name of a plan: a, b, ..., z, ba, ..."""
    text = ""
    while True:
        number, digit = divmod(number, len(_DIGITS))
        text = _DIGITS[digit] + text
        if not number:
            return text
