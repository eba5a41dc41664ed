"""The doctor: looks at everything that a project stands on, and says of each finding what to do."""

from __future__ import annotations

import asyncio
import platform
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from features import keys
from features.embedded import EmbeddedRedisError, server_program
from features.errors import HeadraceError
from features.layout import choose, name_of
from features.redis import RedisStore
from features.store import Store
from models import Project
from streams.admin import Admin, Found
from streams.errors import StreamsError
from streams.security import Brokers

from .describe import pending
from .errors import told
from .opening import open_project
from .output import size
from .settings import Settings, shown
from .topics import CLEANUP, COMPACT, FOREVER, RETENTION, differences, wanted_topics

Level = Literal["ok", "warning", "error"]
_PACKAGES = (
    "headrace",
    "river",
    "faust-streaming",
    "aiokafka",
    "confluent-kafka",
    "redis",
    "fastapi",
    "msgspec",
)
_OLDEST_PYTHON = (3, 11)
_OLDEST_REDIS = (6, 2)
GROUPS_A_MASTER = 4  # of a cluster: with fewer, one master may have twice the load of another
_DAY = 86_400  # seconds
_ROOMY = 0.7  # of max_pending: a peak is above the mean of a day


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: Level
    what: str
    found: str
    fix: str = ""


def examine(settings: Settings, file: Path | None) -> list[Finding]:
    """Returns what there is to say of this machine, the servers and a project."""
    findings = [*_python(), *_packages(), *_embedded()]
    project: Project | None = None
    if file is not None:
        found, project = _project(file)
        findings.extend(found)
    findings.extend(_kafka(settings.brokers, project))
    findings.extend(asyncio.run(_redis(settings.redis, project)))
    findings.append(_port(settings.host, settings.port))
    if settings.secret is None:
        findings.append(
            Finding(
                "warning",
                "snapshot secret",
                "none is set: model snapshots are sealed with a key that anyone can derive",
                "set HEADRACE_SECRET to the same 16 or more random bytes for workers and APIs (openssl rand -hex 32)",
            )
        )
    return findings


def _python() -> list[Finding]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    old = sys.version_info < _OLDEST_PYTHON
    return [Finding("error" if old else "ok", "Python", found, "install Python 3.11 or newer" if old else "")]


def _packages() -> list[Finding]:
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return [
            Finding(
                "error",
                "packages",
                f"missing: {', '.join(missing)}",
                "install headrace again, with what it needs",
            )
        ]
    return [Finding("ok", "packages", ", ".join(found))]


def _embedded() -> list[Finding]:
    try:
        return [Finding("ok", "redis-server for the demo", str(server_program()))]
    except EmbeddedRedisError as error:
        parts = told(error)
        return [Finding("warning", "redis-server for the demo", parts.what, parts.fix)]


def _project(file: Path) -> tuple[list[Finding], Project | None]:
    try:
        project = open_project(file).project
    except HeadraceError as error:
        parts = told(error)
        return [Finding("error", f"project {file}", f"{parts.what} ({parts.where})", parts.fix)], None
    sizes = f"{len(project.models)} models, {len(project.views)} views, {len(project.sources)} sources"
    return [Finding("ok", f"project {project.name}", sizes)], project


def _kafka(brokers: Brokers, project: Project | None) -> list[Finding]:
    try:
        with Admin(brokers, timeout=5.0) as admin:
            cluster = admin.cluster()
            findings = [Finding("ok", "Kafka", f"{', '.join(cluster.brokers)}; librdkafka {cluster.client}")]
            if cluster.embedded:
                findings.append(
                    Finding(
                        "warning",
                        "Kafka",
                        "the embedded broker forgets after 5 MiB a partition",
                        "use it for demos only",
                    )
                )
            if project is None:
                return findings
            return [*findings, *_topics(admin, project), *_waiting(admin, project)]
    except StreamsError as error:
        parts = told(error)
        return [
            Finding(
                "error",
                f"Kafka at {brokers.bootstrap}",
                parts.why or parts.what,
                parts.fix + " No Docker? headrace demo",
            )
        ]


def _topics(admin: Admin, project: Project) -> list[Finding]:
    wanted = wanted_topics(project)
    found = admin.found([topic.name for topic in wanted])
    findings: list[Finding] = []
    for topic in wanted:
        there = found.get(topic.name)
        if there is None:
            fix = "headrace topics apply FILE creates it"
            findings.append(Finding("error", topic.name, "there is no such topic", fix))
            continue
        findings.append(Finding("ok", topic.name, f"{there.partitions} partitions{_kept(there)}"))
    for d in differences(wanted, found):
        if d.setting == "partitions" and not d.fatal:
            continue  # any number will do, as long as it stays
        level: Level = "error" if d.fatal else "warning"
        findings.append(
            Finding(level, d.topic, f"{d.setting} is {d.found}, the project needs {d.wanted}", d.fix)
        )
    return findings


def _kept(there: Found) -> str:
    kept = there.config.get(RETENTION)
    if there.config.get(CLEANUP) == COMPACT:
        return ", compacted"
    if kept is None:
        return ""
    return ", kept for ever" if int(kept) == FOREVER else f", kept {int(kept) // 3_600_000} h"


def _waiting(admin: Admin, project: Project) -> list[Finding]:
    """Returns what waiting predictions will take at the rate of the last day."""
    found = admin.found(
        [topic for model in project.models for topic in (model.spec.request.topic, model.log_topic)]
    )
    findings: list[Finding] = []
    for model in project.models:
        request, own = found.get(model.spec.request.topic), found.get(model.log_topic)
        if model.spec.label is None or request is None or own is None:
            continue
        count = admin.since(model.spec.request.topic, request.partitions, round(1000 * (time.time() - _DAY)))
        p = pending(model, count / _DAY)
        tight = p.waiting > _ROOMY * p.max_pending * own.partitions
        findings.append(
            Finding(
                "warning" if tight else "ok",
                f"waiting predictions of {model.name}",
                f"{p.per_second:.3g}/s in the last day x {p.horizon}: {p.waiting:,}, {size(p.bytes_total)} in Redis, "
                f"{size(p.memory_total)} in the workers; the join stands still at {p.max_pending * own.partitions:,}",
                'give its label vectors="log" or a larger max_pending: docs/how-to/long-horizons.md'
                if tight
                else "",
            )
        )
    return findings


async def _redis(url: str, project: Project | None) -> list[Finding]:
    store = RedisStore(url, timeout=5.0)
    try:
        owners = await store.owners()
        findings = [] if not owners else _cluster(owners, await _tags(project, store))
        for where, facts in (await store.facts()).items():
            findings += _redis_findings(facts, f" at {where}" if owners else "")
        return findings + ([] if project is None else await states_of(project, store))
    except HeadraceError as error:
        fix = error.fix or "start Redis, or give --redis"
        return [Finding("error", f"Redis at {urlsplit(shown(url)).netloc}", error.what, fix)]
    finally:
        await store.close()


async def _tags(project: Project | None, store: Store) -> list[str]:
    """Returns the hash tags of the deployed groups, of all projects where none is given."""
    begins = b"" if project is None else f"{project.name}/".encode()
    return [
        keys.tag(named.decode()) for name, named in await store.fields(keys.GROUPS) if name.startswith(begins)
    ]


def _cluster(owners: Sequence[str | None], tags: Sequence[str]) -> list[Finding]:
    """Returns what there is to say of a cluster and of how groups lie in it."""
    masters = set(owners) - {None}
    uncovered = sum(owner is None for owner in owners)
    findings = [
        Finding(
            "error" if uncovered else "ok",
            "Redis Cluster",
            f"{len(masters)} masters, {len(owners) - uncovered} of {len(owners)} slots served",
            "start the missing masters, or run redis-cli --cluster fix" if uncovered else "",
        )
    ]
    if not tags:
        return findings
    on = Counter(owners[keys.slot(tag.encode())] for tag in tags)
    few = len(tags) < GROUPS_A_MASTER * len(masters)
    return [
        *findings,
        Finding(
            "warning" if few else "ok",
            "groups in the cluster",
            f"{len(tags)} on {len(masters)} masters: {min(on[m] for m in masters)} to {max(on.values())} on each",
            f"below {GROUPS_A_MASTER} groups a master one may have twice the load of another: give a new topic version "
            "more partitions, or the cluster fewer masters"
            if few
            else "",
        ),
    ]


async def states_of(project: Project, store: Store) -> list[Finding]:
    """Returns which deployed states would serve each source of a project, and what it costs where none does."""
    findings = []
    for source in project.sources:
        known = await store.layouts(project.name, source.topic)
        plans = project.plans_over(source)
        if not plans and not known:
            continue
        what = f"states from {source.topic}"
        (_, name, _), missing = choose(known, source, plans)
        own = name_of([plan.spec for plan in plans])
        if not missing and name == own:
            there = any(one.layout == own for one in known)
            found = "deployed" if there else "new: folded from the start of the log"
            findings.append(Finding("ok", what, found))
        elif not missing:
            found = (
                f"adopted: layout {name} is deployed and keeps all that is needed, nothing is folded again"
            )
            findings.append(Finding("ok", what, found))
        else:
            findings.append(
                Finding(
                    "warning",
                    what,
                    f"other than those deployed: {'; '.join(missing)}",
                    f"workers fold {source.topic} again from its start, beside the old states, and models that read "
                    "these states begin at version 0; leave out what is missing to go on with what is there",
                )
            )
    return findings


def _redis_findings(facts: dict[str, str], where: str) -> list[Finding]:
    number = tuple(int(part) for part in facts.get("redis_version", "0.0").split(".")[:2])
    old = number < _OLDEST_REDIS
    findings = [
        Finding(
            "error" if old else "ok",
            f"Redis{where}",
            f"version {facts.get('redis_version')}, {facts.get('used_memory_human')} used",
            "install Redis 6.2 or newer, or Valkey" if old else "",
        )
    ]
    policy = facts.get("maxmemory_policy", "unknown")
    keeps = policy == "noeviction"
    findings.append(
        Finding(
            "ok" if keeps else "error",
            f"Redis eviction{where}",
            policy,
            "" if keeps else "CONFIG SET maxmemory-policy noeviction: an evicted state is a wrong feature",
        )
    )
    appends = facts.get("aof_enabled") == "1"
    findings.append(
        Finding(
            "ok" if appends else "warning",
            f"Redis append-only file{where}",
            "on" if appends else "off",
            "" if appends else "CONFIG SET appendonly yes: without it a restart folds the whole log again",
        )
    )
    return findings


def _port(host: str, port: int) -> Finding:
    if port == 0:
        return Finding("ok", "port of the API", "a free one will be taken")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding(
                "warning",
                f"port {port} of {host}",
                error.strerror or str(error),
                "end what listens there, or set --port",
            )
    return Finding("ok", f"port {port} of {host}", "free")
