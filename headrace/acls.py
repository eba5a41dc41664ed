"""What each role may do in Kafka: the least that it needs, from the project.

A permission to read or to write a topic holds that of seeing it. Nobody needs one for idempotent writing: since
Kafka 3.0 whoever may write to a topic may write so.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator
from typing import Literal, NamedTuple

from models import Project
from models.deployment import topics_of
from models.outcomes import Outcomes
from models.topics import dead_letter_topic
from streams.log import READER_GROUP

Kind = Literal["topic", "group"]
Pattern = Literal["literal", "prefixed"]


class Acl(NamedTuple):
    """One thing that a principal is allowed to do, from any host."""

    principal: str
    resource_type: Kind
    name: str
    pattern_type: Pattern
    operation: str  # as `kafka-acls.sh` writes it
    permission: Literal["Allow"] = "Allow"


def user(project: Project, role: str) -> str:
    """Returns the user of a role, as it logs in."""
    return f"headrace-{project.name}-{role}"


def acls(project: Project) -> list[Acl]:
    """Returns all permissions of a project, role by role."""
    return [
        Acl(f"User:{user(project, role)}", *resource, operation)
        for role, granted in roles(project).items()
        for resource, operations in granted.items()
        for operation in operations
    ]


_Resource = tuple[Kind, str, Pattern]
_Granted = dict[_Resource, tuple[str, ...]]
_OPERATIONS = ("Create", "Read", "Write", "Describe", "DescribeConfigs")


def roles(project: Project) -> dict[str, _Granted]:
    """Returns what each role may do: to which resource, which operations."""
    sources = [source.topic for source in project.sources]
    given = [source.topic for source in project.sources if not isinstance(source, Outcomes)]
    logs = [model.log_topic for model in project.models]
    samples = [model.samples_topic for model in project.models]
    ours = list(topics_of(project))
    letters = [dead_letter_topic(topic) for topic in ours]
    works = {
        "features": _worker(sources, logs, ours),
        "join": _worker(logs, samples, ours),
        "learn": _worker(samples, [], ours),
    }
    whole, group = _merged(works.values()), f"headrace.{project.name}"
    return {
        # one with two of the three roles has a group of its own, named by them; a project's name has no dot
        "worker": whole | _granted("group", [group], "Read") | _under(f"{group}."),
        **{
            f"worker-{role}": may | _granted("group", [f"{group}.{role}"], "Read")
            for role, may in works.items()
        },
        "api": _merged([_granted("topic", ours, "Describe"), _granted("topic", [*given, *logs], "Write")]),
        **{f"producer-{topic}": _granted("topic", [topic], "Write") for topic in given},
        # verify, replay, base, features get, models list, dlq list
        "reader": _granted("topic", [*ours, *letters], "Read") | _reading(),
        # dlq replay: a letter may be too long to have its event, which is then read where it was
        "letters": _merged(
            [
                _granted("topic", [*given, *letters], "Read", "Write"),
                _granted("topic", [topic for topic in ours if topic not in given], "Describe"),
                _reading(),
            ]
        ),
        # forget
        "eraser": _merged([_granted("topic", given, "Write"), _granted("topic", ours, "Describe")]),
        # topics apply, doctor
        "admin": _granted("topic", [*ours, *letters], "Create", "Describe", "DescribeConfigs"),
    }


def _worker(reads: Collection[str], writes: Collection[str], ours: Collection[str]) -> _Granted:
    """Returns what a worker may do with topics; it looks at all of them, and at how they are kept, when it starts."""
    letters = [dead_letter_topic(topic) for topic in reads]
    return _merged(
        [
            _granted("topic", reads, "Read"),
            _granted("topic", [*writes, *letters], "Write"),
            _granted("topic", ours, "Describe"),
            _granted("topic", [*ours, *letters], "DescribeConfigs"),
        ]
    )


def _reading() -> _Granted:
    # it joins no group, but librdkafka asks for the coordinator of the one that it must be given
    return _granted("group", [READER_GROUP], "Describe")


def _under(prefix: str) -> _Granted:
    return {("group", prefix, "prefixed"): ("Read",)}


def _granted(kind: Kind, names: Iterable[str], *operations: str) -> _Granted:
    return {(kind, name, "literal"): operations for name in names}


def _merged(parts: Iterable[_Granted]) -> _Granted:
    """Returns all that the parts grant, without what is implied by the rest."""
    merged: dict[_Resource, dict[str, None]] = {}
    for part in parts:
        for resource, operations in part.items():
            merged.setdefault(resource, {}).update(dict.fromkeys(operations))
    return {resource: tuple(_needed(operations)) for resource, operations in merged.items()}


def _needed(operations: Collection[str]) -> Iterator[str]:
    implied = {"Describe"} if {"Read", "Write"} & set(operations) else set()
    return (operation for operation in _OPERATIONS if operation in operations and operation not in implied)


def commands(found: Iterable[Acl]) -> list[str]:
    """Returns the calls of `kafka-acls.sh` that grant permissions; `$BROKERS` and `$ADMIN` say where and as whom."""
    of_resource: dict[tuple[str, _Resource], list[str]] = {}
    for acl in found:
        resource = (acl.resource_type, acl.name, acl.pattern_type)
        of_resource.setdefault((acl.principal, resource), []).append(acl.operation)
    together: dict[tuple[str, Kind, Pattern, tuple[str, ...]], list[str]] = {}
    for (principal, (kind, name, pattern)), operations in of_resource.items():
        together.setdefault((principal, kind, pattern, tuple(operations)), []).append(name)
    return [
        'kafka-acls.sh --bootstrap-server "$BROKERS" --command-config "$ADMIN" --add '
        + shlex.join(
            [
                *("--allow-principal", principal, "--resource-pattern-type", pattern),
                *(word for operation in operations for word in ("--operation", operation)),
                *(word for name in names for word in (f"--{kind}", name)),
            ]
        )
        for (principal, kind, pattern, operations), names in together.items()
    ]
