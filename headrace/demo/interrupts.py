"""Ctrl-C and SIGTERM while things come up and go down: what has begun is finished, then all of it is taken down."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """Someone has seen enough. Not an error: nobody may take it for one of theirs."""


class Interrupts:
    """Turns the first signal into `Interrupted`; those that follow are ignored, since cleaning up takes a moment.

    Signals are held back by a flag: a mask would hold them from this thread only, and libraries have threads as well.
    """

    def __init__(self) -> None:
        self._later = False
        self._pending = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._interrupt) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Holds a signal back until the end of the block, so that what is made in it has its owner by then."""
        self._later = True
        try:
            yield
        finally:
            self._later = False
        if self._pending:
            raise Interrupted

    def ignore(self) -> None:
        """Ignores signals from now on."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _interrupt(self, _number: int, _frame: object) -> None:
        self.ignore()
        self._pending = True
        if not self._later:
            raise Interrupted
