"""Every decoder by its name."""

from __future__ import annotations

from tests.fuzz import logs, snapshots, states
from tests.fuzz.target import Target

TARGETS = {
    "event": Target(logs.event, logs.events),
    "record": Target(logs.record, logs.records),
    "sample": Target(logs.sample, logs.samples),
    "state": Target(states.state, states.states),
    "position": Target(states.position, states.positions),
    "layout": Target(states.layout, states.layouts),
    "join": Target(logs.join, logs.joins),
    "snapshot": Target(snapshots.snapshot, snapshots.snapshots),
    "spool": Target(logs.spool, logs.spools),
    "letters": Target(logs.letters, logs.told),
}
