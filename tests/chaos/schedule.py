"""What breaks, and when: drawn from the seed alone, placed by progress and not by the clock."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import NamedTuple

KILLS = {  # SIGKILL of something; how often each, relative to the others
    "worker-kill": 5,
    "learner-kill": 2,
    "api-kill": 2,
    "broker-kill": 2,
    "redis-kill": 2,
    "redis-torn": 2,  # and the end of its append-only file is lost
    "redis-restore": 1,  # and it comes back as it was some faults ago
}
OTHERS = {
    "worker-stop": 2,  # SIGSTOP for longer than the session, then SIGCONT
    "broker-stop": 1,  # likewise
    "redis-full": 1,  # no memory left
    "cut": 6,  # of a commit, at any byte of the request or the reply
    "late": 3,  # a commit whose sender is gone, delivered later
}
KINDS = (*KILLS, *OTHERS)
REWINDS = ("redis-torn", "redis-restore")  # after which the store stands where it stood before
OVERLAPPING = 0.15  # share of faults that come at once with the one before
SAVED = 4  # an older Redis is restored from a backup taken this many faults before


class Fault(NamedTuple):
    """One thing that breaks, when this share of all records has been folded."""

    number: int
    kind: str
    at: float
    draw: float  # from 0 to 1: which one, how long, how much


def schedule(kills: int, seed: int, kinds: Collection[str] = KINDS) -> list[Fault]:
    """Returns the faults of a run, in their order, with this many SIGKILLs; every kind comes at least once.

    Raises:
        ValueError: no kind of kill was asked for, or one that there is not.
    """
    chance = random.Random(f"faults of {seed}")
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(f"there is no fault {unknown[0]}; there are {', '.join(KINDS)}")
    deadly = [kind for kind in KILLS if kind in kinds]
    others = [kind for kind in OTHERS if kind in kinds]
    if not deadly:
        raise ValueError(f"name a fault that kills: {', '.join(KILLS)}")
    first, more = _drawn(deadly, KILLS, kills, chance)
    drawn = first + more
    if others:
        first, more = _drawn(others, OTHERS, max(len(others), kills * 4 // 5), chance)
        drawn += first + more
    chance.shuffle(drawn)
    at, faults = 0.0, []
    for number, kind in enumerate(drawn):
        if not number or chance.random() >= OVERLAPPING:
            at = 0.02 + 0.9 * (number + chance.random()) / len(drawn)
        faults.append(Fault(number, kind, at, chance.random()))
    return faults


def _drawn(
    kinds: list[str], weights: dict[str, int], count: int, chance: random.Random
) -> tuple[list[str], list[str]]:
    first = kinds[:count]
    return first, chance.choices(kinds, [weights[kind] for kind in kinds], k=count - len(first))


def backups(faults: list[Fault]) -> set[int]:
    """Returns the faults before which Redis is copied, so that a later one can restore it."""
    return {max(0, fault.number - SAVED) for fault in faults if fault.kind == "redis-restore"}
