"""What a step of arithmetic left behind: did it overflow, divide by zero, or make a NaN?

The processor keeps a flag for each since somebody last cleared it (IEEE 754, clause 7), and sets it wherever the step
is computed: in Python, in Cython, in Rust. Asking costs half a microsecond; looking through a model costs more than
learning. NumPy clears the flags for itself, so what went wrong before one of its steps may go unnoticed: a look at the
model tells.
"""

from __future__ import annotations

import ctypes
import io
import pickle
import struct
from math import inf, nan
from typing import Any, NamedTuple

import numpy as np

_libm = ctypes.CDLL(None)
_ALL = 0x1F


def _raised_by(function: str, argument: float) -> int:
    """Returns the flags that a function of the C library raises: their bits differ from processor to processor."""
    call = getattr(_libm, function)
    call.restype, call.argtypes = ctypes.c_double, [ctypes.c_double]
    _libm.feclearexcept(_ALL)
    call(argument)
    return int(_libm.fetestexcept(_ALL))


_BAD = (_raised_by("exp", 1e4) | _raised_by("log", 0.0) | _raised_by("sqrt", -1.0)) & ~_raised_by("sin", 1.0)


def clear() -> None:
    """Forgets what this thread did before."""
    _libm.feclearexcept(_BAD)


def went_wrong() -> bool:
    """Whether anything overflowed, was divided by zero or had no result since `clear`, in this thread."""
    return bool(_libm.fetestexcept(_BAD))


class Dump(NamedTuple):
    """A model as bytes for this process alone, and what is in them that is not finite."""

    data: bytes
    numbers: int
    """NaN and infinities among floats and arrays. Some models hold an infinity from the start: what tells is more."""
    states: int
    """Places in the states of statistics in Rust that look like one; a count may look like one as well."""


def dump(model: object) -> Dump:
    """Returns the pickle of a model.

    Example:
        >>> dump([1.0, inf, {"mean": nan, "weights": np.array([-inf, 0.0])}]).numbers
        3
    """
    file = io.BytesIO()
    pickler = _Pickler(file, pickle.HIGHEST_PROTOCOL)
    pickler.dump(model)
    data = file.getvalue()
    # No text can look like one of these, since they are not UTF-8.
    return Dump(data, pickler.numbers + sum(data.count(each) for each in _FLOATS), pickler.states)


def loaded(data: bytes) -> Any:
    """Returns the model of a dump of this process."""
    return pickle.loads(data)  # noqa: S301 - made here, and never left


_SPECIAL = (inf, -inf, nan, -nan)
_FLOATS = [pickle.BINFLOAT + struct.pack(">d", value) for value in _SPECIAL]
_STATES = [struct.pack("<d", value) for value in _SPECIAL]


class _Pickler(pickle.Pickler):
    """Counts what is not finite in what is no plain float."""

    numbers = states = 0

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray | np.floating):
            if obj.dtype.kind == "f":
                self.numbers += int(np.count_nonzero(~np.isfinite(obj)))
        elif type(obj).__module__.startswith("river._river_rust"):
            state = obj.__getstate__()
            if isinstance(state, bytes):
                self.states += sum(state.count(each) for each in _STATES)
        return NotImplemented
