"""What can go wrong in the API beside what the rooms below report.

HeadraceError
├── OutboxUnavailable    recoverable: the broker has not acknowledged; answered 503
├── OutboxRefused        the broker will never take this record; answered 500
├── KeysUnusable         the file of API keys; the process does not start, or keeps the keys that it has
├── IssuerUnusable       the keys of the issuer of tokens; likewise
└── CannotListen         the address is taken, or the certificate cannot be used; the process does not start

An adapter of the outbox translates its client's errors into these. HTTP statuses are decided in `problems`.
"""

from __future__ import annotations

from features.errors import HeadraceError


class OutboxUnavailable(HeadraceError):
    """The broker did not acknowledge a record; it may or may not have it, and sending it again is safe."""


class OutboxRefused(HeadraceError):
    """The broker will not take a record."""


class KeysUnusable(HeadraceError):
    """The file of API keys cannot be read, or a line of it is none."""


class IssuerUnusable(HeadraceError):
    """The keys of the issuer of tokens cannot be fetched, or are none."""


class CannotListen(HeadraceError):
    """The API cannot have the address that it is to answer at."""
