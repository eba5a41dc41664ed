"""`headrace access`: who may do what in Redis."""

from __future__ import annotations

import secrets
import sys

import typer

from ..output import emit, note
from .options import File, Json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: headrace access payments.py > users.acl")(access)


def access(file: File, json: Json = False) -> None:
    """Print an ACL file for Redis with a user for each role: headrace-worker, headrace-api and headrace-admin.

    Each has the keys and commands that it needs and no others; the default user is off. Passwords are drawn anew and
    shown once, on stderr: the file has only their SHA-256. Start a worker before the first API, which may only read.
    """
    from ..access import ROLES, acl_lines, user
    from ..opening import open_project

    project = open_project(file, check_learners=False).project
    passwords = {role: secrets.token_urlsafe(32) for role in ROLES}
    lines = acl_lines(project, passwords)
    if json:
        emit({"redis": lines, "passwords": {user(role): word for role, word in passwords.items()}})
        return
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    for role, word in passwords.items():
        note(f"password of {user(role)}: {word}")
