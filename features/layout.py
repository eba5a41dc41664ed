"""Layouts: which states are folded from one topic, as plain data that outlives the file that asked for them.

A file adopts a deployed layout that keeps everything it needs. Then nothing is folded again, and what the layout keeps
beyond that goes on being folded, so that a process with another file reads states without holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from .clock import duration_text
from .errors import DefinitionError
from .fingerprint import short_digest
from .plan import StatePlan, StateSpec
from .source import Source
from .store import Adoption
from .text import check_json
from .tiles import COARSER, resolution

Layout = tuple[StateSpec, ...]


class Choice(NamedTuple):
    """Which layout is to serve a file, and what it was chosen over."""

    adoption: Adoption
    missing: list[str]  # what the newest deployed layout does not keep, in words, where none serves


def name_of(layout: Sequence[StateSpec]) -> str:
    """Returns the digest that names a layout, and the fold groups that hold it."""
    return short_digest("\n".join(sorted(spec.fingerprint() for spec in layout)).encode())[:12]


def layout_in(known: Sequence[Adoption], name: str) -> Layout | None:
    """Returns the deployed layout of a name; None where there is none, or one that this version cannot read."""
    stored = next((one.states for one in known if one.layout == name and one.states), None)
    if stored is None:
        return None
    try:
        check_json(stored)
        return msgspec.json.decode(stored, type=Layout)
    except (msgspec.DecodeError, ValueError):
        return None


def choose(known: Sequence[Adoption], source: Source[Any], plans: Sequence[StatePlan]) -> Choice:
    """Returns which layout serves plans: the one decided on, or else the one to decide on.

    That is the newest that serves them, else their own as a new one; and where that was done before, it is decided.

    Args:
        known: what was decided before, oldest first.
        source: what is folded.
        plans: what views need of it.
    """
    own = needed = name_of([plan.spec for plan in plans])
    while (taken := next((one for one in known if one.needed == needed), None)) is not None:
        if not gaps(layout_in(known, taken.layout), source, plans):
            return Choice(taken, [])
        # decided on when the file could still fold what the layout keeps and nothing needs
        needed = f"{needed} without {taken.layout}"
    missing: list[str] = []
    for name in dict.fromkeys(one.layout for one in reversed(known) if one.states):
        found = gaps(layout_in(known, name), source, plans)
        if not found:
            return Choice(Adoption(needed, name, b""), [])
        missing = missing or found
    return Choice(Adoption(needed, own, msgspec.json.encode([plan.spec for plan in plans])), missing)


def gaps(layout: Layout | None, source: Source[Any], plans: Sequence[StatePlan]) -> list[str]:
    """Returns why a layout does not serve plans, in words; empty where it does."""
    if layout is None:
        return ["it was stored by another version of Headrace"]
    deployed = {spec.subject: spec for spec in layout}
    found = []
    for spec in (plan.spec for plan in plans):
        other = deployed.get(spec.subject)
        found += [f"no state of {spec.told}"] if other is None else uncovered(other, spec)
    if found:
        return found
    try:
        under(layout, source, plans)
    except DefinitionError as error:
        return [error.what]
    return []


def uncovered(deployed: StateSpec, needed: StateSpec) -> list[str]:
    """Returns what a state would have to keep beyond what it does to give every value of another, in words.

    A value read from the wider state has the same bits, unless events are in tiles: there its bound may be up to four
    times that of a state of its own, and a count of different values is estimated from the sample of the longer reach.
    """
    name = needed.told
    found = [
        f"{what} of {name} is {there}, not {wanted}"
        for what, there, wanted in (
            ("the format", deployed.format, needed.format),
            ("the id column", deployed.id, needed.id),
            ("the time column", deployed.time, needed.time),
            ("the lateness", duration_text(deployed.lateness), duration_text(needed.lateness)),
            ("revises", deployed.revises, needed.revises),
        )
        if there != wanted
    ]
    found += [
        f"{name} does not keep {path} ({told}) as a {kind}"
        for path, kind, told in needed.columns
        if (path, kind, told) not in deployed.columns
    ]
    found += [
        f"{name} does not keep {_told(kin)} of events in tiles"
        for kin in needed.kept
        if kin not in deployed.kept
    ]
    found += [
        f"{name} does not keep {_told(base[:4])} "
        + ("of events that left" if base[5] else f"for a lifetime forgotten after {duration_text(base[4])}")
        for base in needed.bases
        if base not in deployed.bases
    ]
    if needed.reach > deployed.reach:
        found.append(
            f"{name} reaches back {duration_text(deployed.reach)}, not {duration_text(needed.reach)}"
        )
        return found
    found += [
        f"{name} has tiles of {duration_text(resolution(deployed, age))} at an age of {duration_text(age)}, "
        f"which asks for {duration_text(size)}"
        for age, size in needed.edges
        if resolution(deployed, age) > COARSER * size
    ]
    return found


def under(layout: Layout, source: Source[Any], plans: Sequence[StatePlan]) -> list[StatePlan]:
    """Returns the plans of a layout that serves others: theirs in their order, then those that nothing needs now.

    Raises:
        DefinitionError: one that nothing needs cannot be folded from what the file and its spec say.
    """
    deployed = {spec.subject: spec for spec in layout}
    served = [plan.adopting(deployed.pop(plan.spec.subject)) for plan in plans]
    return served + [StatePlan(spec, source) for spec in deployed.values()]


def _told(kin: tuple[str, ...]) -> str:
    name, path, parameter, _ = kin
    return f"{name}({', '.join(filter(None, (path, parameter)))})"
