"""`headrace access`: who may do what in Redis and in Kafka."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..output import emit, note
from .options import File, Json

if TYPE_CHECKING:
    from models import Project


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace access payments.py > users.acl")(access)


def access(
    file: File,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="Print what each role may do in Kafka instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Print an ACL file for Redis with a user for each role: headrace-worker, headrace-api and headrace-admin.

    Each has the keys and commands that it needs and no others; the default user is off. Passwords are drawn anew and
    shown once, on stderr: the file has only their SHA-256. Start a worker before the first API, which may only read.

    With --kafka it prints the calls of kafka-acls.sh that allow each role what it needs in Kafka, and no more. The
    users are made as your Kafka makes users; their names are headrace-PROJECT-ROLE.
    """
    from ..access import ROLES, acl_lines, user
    from ..opening import open_project

    project = open_project(file, check_learners=False).project
    if kafka:
        _kafka(project, json)
        return
    passwords = {role: secrets.token_urlsafe(32) for role in ROLES}
    lines = acl_lines(project, passwords)
    if json:
        emit({"redis": lines, "passwords": {user(role): word for role, word in passwords.items()}})
        return
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    for role, word in passwords.items():
        note(f"password of {user(role)}: {word}")


def _kafka(project: Project, json: bool) -> None:
    from ..acls import acls, commands

    found = acls(project)
    if json:
        emit({"kafka": [acl._asdict() for acl in found]})
        return
    sys.stdout.write("".join(f"{line}\n" for line in ["set -eu", *commands(found)]))
    note("run it with BROKERS=host:port and ADMIN=FILE, the properties of a client that may change ACLs")
