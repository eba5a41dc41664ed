"""What each role may do in Redis: the least that it needs, from the project."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from features import keys
from models import Project

_GROUPS = "{[0-9g]*}*"  # keys of all fold groups; which ones a project has is known only once it is deployed
_CONNECTING = ("select", "cluster|slots", "asking")
_READING = ("get", "mget", "getrange", "hget", "hmget", "hvals", "hscan", "exists")
_FOLDING = (
    *("set", "mset", "setrange", "strlen", "type", "unlink"),
    *("hset", "hsetnx", "hlen", "hdel", "scan", "eval", "evalsha"),
)
_MENDING = ("info", "scan", "unlink", "hdel")

ROLES: Mapping[str, tuple[str, ...]] = {
    # the API writes nothing at all: what it deploys was given its places by a worker
    "api": (*_CONNECTING, *_READING),
    "worker": (*_CONNECTING, *_READING, *_FOLDING),
    # for verify, replay, doctor, and to remove what no definition uses any more
    "admin": (*_CONNECTING, *_READING, *_MENDING),
}


def user(role: str) -> str:
    """Returns the user of a role."""
    return f"headrace-{role}"


def acl_lines(project: Project, passwords: Mapping[str, str]) -> list[str]:
    """Returns the ACL file of Redis 6.2 or newer, with a user for each role; the default user is off.

    Args:
        project: whose keys they are.
        passwords: by role; only their SHA-256 stands in the lines.
    """
    layouts = keys.layouts(_literally(project.name), "*")
    patterns = " ".join(
        f"~{p}"
        for p in (_GROUPS, keys.GROUPS, keys.PLANS, keys.TOPICS, keys.STATUS, keys.PLANS + ":*", layouts)
    )
    lines = ["user default off resetpass resetkeys resetchannels -@all"]
    for role, commands in ROLES.items():
        secret = sha256(passwords[role].encode()).hexdigest()
        granted = " ".join(f"+{command}" for command in commands)
        lines.append(f"user {user(role)} on #{secret} {patterns} resetchannels -@all {granted}")
    return lines


def _literally(name: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in name)
