"""Every key in Redis.

A fold group has one hash tag, `{g<n>}`, so all of it lives in one slot; tags are short because a key costs more than a
state.

    {g7}@             position of the group: topic id, next offset, clock, token
    {g7}@score        position of another reader of the same partition: score, join or learn
    {g7}a.<entity>    state of an entity under the plan with code `a`
    {g7}mark          what the owner of the group tells other workers: time of its next record and request
    {g7}join          pending predictions of a model's log, a hash
    {g7}model         newest snapshot of a model
    {g7}kept          the metrics that belong to it and some earlier versions, a hash
    headrace:groups   which group has which number, a hash
    headrace:plans    which state fingerprint has which code, a hash
    headrace:status   what each process says of itself, a hash
    headrace:topics   how many partitions a topic had when its groups were made, a hash
    headrace:layouts/<project>/<topic>   which states serve which file, a hash
"""

from __future__ import annotations

GROUPS = "headrace:groups"
PLANS = "headrace:plans"
TOPICS = "headrace:topics"
STATUS = "headrace:status"

_DIGITS = "abcdefghijklmnopqrstuvwxyz"


def tag(number: int) -> str:
    """Returns the hash tag of a group."""
    return f"{{g{number}}}"


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
