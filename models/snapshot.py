"""Snapshots: how a version of a learner travels from its only writer to those who serve it.

Sealed, a snapshot is an envelope:

    magic | sizes | SHA-256 of the body | key id | header (JSON) | HMAC-SHA256 of all before | body (pickle)

The HMAC covers the digest of the body, so a header can be checked and read without the body, and nothing
beyond the fixed prefix is parsed before it was checked. Only then is the body unpickled, and only from
classes on a list. The key is the boundary; the list stands behind it and bounds what a leaked key can do, it
does not undo it.

Take and seal a snapshot from the thread that writes the learner, between two samples: River's learners are
not safe to read while they learn. `seal` proves that the learner still is the one that the digest names.
"""

from __future__ import annotations

import copyreg
import enum
import hashlib
import hmac
import io
import pickle
import platform
import random
import struct
import types
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, fields
from importlib.metadata import version as installed
from typing import Any

import msgspec
import numpy as np

from models.canonical import digest, digest_and_unseeded
from models.errors import (
    ClassRefused,
    DigestDiffers,
    LearnerTooDeep,
    SnapshotError,
    SnapshotForged,
    WrongRiver,
)

_RIVER, _PYTHON, _HEADRACE = installed("river"), platform.python_version(), installed("headrace")
_MAGIC = b"HDRACE\x00\x01"
_PREFIX = struct.Struct(">8sBIQ32s")
_MAC = 32
_SHORTEST_SECRET = 16


@dataclass(frozen=True)
class Position:
    """What a learner has learned of its inputs."""

    origins: dict[str, tuple[int, int]]
    """Per group of the model log, the (offset, index) of the last sample learned."""
    next: int
    """The next offset of the samples topic."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a snapshot says about its learner."""

    version: int
    """Samples learned; 0 is the untrained learner."""
    fingerprint: str
    """Of the vector that it was trained on."""
    digest: str
    """Of the learner's canonical bytes."""
    position: Position
    created_ms: int
    river: str = _RIVER
    python: str = _PYTHON
    headrace: str = _HEADRACE


@dataclass(frozen=True, kw_only=True)
class Snapshot(Header):
    """A header and its learner, which from now on nobody trains."""

    learner: Any = field(repr=False, compare=False)


@dataclass(frozen=True)
class Key:
    """A secret that writers and readers of snapshots share, and the name that envelopes call it by.

    Raises:
        SnapshotError: the secret is shorter than 16 bytes, or the id longer than 255.
    """

    id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < _SHORTEST_SECRET:
            raise SnapshotError(
                f"the secret of snapshot key {self.id!r} has {len(self.secret)} bytes",
                fix=f"use at least {_SHORTEST_SECRET}, drawn at random (openssl rand -hex 32)",
            )
        if not 0 < len(self.id.encode()) <= 255:  # one byte holds the length
            raise SnapshotError(f"snapshot key id {self.id!r}", fix="use 1 to 255 bytes")


def development_key(project: str) -> Key:
    """The key of a project that has none: it protects nothing, since anyone can derive it from the name.

    Pass it explicitly where the store and the topics are yours alone; never where others can write to them.
    """
    secret = hashlib.sha256(b"headrace development key of " + project.encode()).digest()
    return Key(f"development:{project}"[:80], secret)


def take(learner: object, *, version: int, fingerprint: str, position: Position, created_ms: int) -> Snapshot:
    """A snapshot of the learner as it stands; it holds the learner itself, not a copy.

    Raises:
        NotCanonical: the learner holds something whose value cannot be written down.
    """
    return Snapshot(
        version=version,
        fingerprint=fingerprint,
        digest=digest(learner),
        position=position,
        created_ms=created_ms,
        learner=learner,
    )


def seal(snapshot: Snapshot, key: Key) -> bytes:
    """The envelope of a snapshot. Blocks for the walk and the dump of the learner.

    Raises:
        DigestDiffers: the learner was trained since the snapshot was taken.
        LearnerTooDeep: the learner is nested too deep to be pickled.
        ClassRefused: the learner cannot be pickled at all.
    """
    found = digest_and_unseeded(snapshot.learner)
    if found.hex != snapshot.digest:
        raise DigestDiffers(
            f"the learner of version {snapshot.version} changed after its snapshot was taken",
            why=f"its digest is {found.hex}, the snapshot says {snapshot.digest}",
            fix="take and seal in the thread that learns, between two samples",
        )
    body = _dump(snapshot.learner, found.unseeded)
    header = msgspec.json.encode({field.name: getattr(snapshot, field.name) for field in fields(Header)})
    name = key.id.encode()
    prefix = _PREFIX.pack(_MAGIC, len(name), len(header), len(body), hashlib.sha256(body).digest())
    signed = prefix + name + header
    return b"".join((signed, _mac(key, signed), body))


def peek(data: bytes | memoryview, keys: Iterable[Key]) -> Header:
    """The header of an envelope, checked, without its body (which may be missing from `data`).

    Raises:
        SnapshotForged: no key of ours sealed this header, or it is cut short.
    """
    return _open(data, keys)[0]


def open_sealed(
    data: bytes | memoryview, keys: Iterable[Key], allow: Collection[str] = (), *, check: bool = False
) -> Snapshot:
    """The snapshot in an envelope, after its seal was checked.

    Args:
        allow: modules of the project whose classes and functions a learner may hold, by their full names.
        check: walk the learner as well and compare its digest (about a third of the time of the load, more).

    Raises:
        SnapshotForged: no key of ours sealed this, it is cut short, or any byte was changed.
        WrongRiver: it was written with another version of River.
        ClassRefused: it names something outside the list.
        DigestDiffers: with `check`, the learner is not the one that the header names.
    """
    header, start, size, sha = _open(data, keys)
    body = memoryview(data)[start:]
    if len(body) != size or not hmac.compare_digest(hashlib.sha256(body).digest(), sha):
        raise _forged(f"the body of version {header.version} was changed or cut short")
    _refuse_other_river(header)
    learner = _Unpickler(io.BytesIO(body), frozenset(allow)).load()
    if check and (found := digest(learner)) != header.digest:
        raise DigestDiffers(
            f"the learner of version {header.version} is not the one that was sealed",
            why=f"its digest is {found}, the header says {header.digest}",
            fix="rebuild the version from its samples, and report how this one was written",
        )
    return Snapshot(**{field.name: getattr(header, field.name) for field in fields(Header)}, learner=learner)


# -- the envelope --------------------------------------------------------------------------------------------


def _mac(key: Key, signed: bytes) -> bytes:
    return hmac.digest(key.secret, signed, "sha256")


def _forged(why: str) -> SnapshotForged:
    return SnapshotForged(
        "a snapshot was refused before it was read",
        why=why,
        fix="check that writer and reader share the key (HEADRACE keys of the project), or fetch it again",
    )


def _open(data: bytes | memoryview, keys: Iterable[Key]) -> tuple[Header, int, int, bytes]:
    """The checked header, where the body starts, how long it is, and its SHA-256."""
    if len(data) < _PREFIX.size:
        raise _forged("it is cut short")
    magic, name_size, header_size, body_size, sha = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise _forged("it is no snapshot of Headrace, or one of a later format")
    end = _PREFIX.size + name_size + header_size
    signed, mac = bytes(data[:end]), bytes(data[end : end + _MAC])
    name = signed[_PREFIX.size : _PREFIX.size + name_size]
    key = next((key for key in keys if key.id.encode() == name), None)
    if key is None:
        raise _forged(f"it names a key that is not ours: {name[:80]!r}")
    if not hmac.compare_digest(_mac(key, signed), mac):
        raise _forged(f"key {key.id!r} did not seal it, or it was changed since")
    header = msgspec.json.decode(signed[_PREFIX.size + name_size :], type=Header)
    return header, end + _MAC, body_size, sha


def _refuse_other_river(header: Header) -> None:
    if header.river != _RIVER:
        raise WrongRiver(
            f"version {header.version} was written with River {header.river}, this is River {_RIVER}",
            why="River's classes change between versions, and with them what they predict",
            fix=f"install river=={header.river}, or rebuild the version from its samples with this one",
        )


# -- the body ------------------------------------------------------------------------------------------------


def _dump(learner: object, unseeded: list[object]) -> bytes:
    """Pickles a learner without the states of its unseeded generators.

    They mean nothing (each reader draws a new start, as the owner's `seed=None` says), and River keeps one of
    2.5 KiB in every Gaussian: in a Hoeffding tree of numbers they are nine tenths of the bytes.
    """
    left_out = {id(generator) for generator in unseeded}
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, protocol=5)
    pickler.dispatch_table = copyreg.dispatch_table | {
        kind: _without_state(left_out) for kind in (random.Random, np.random.RandomState)
    }
    try:
        pickler.dump(learner)
    except RecursionError as error:
        raise LearnerTooDeep(
            f"{type(learner).__qualname__} is nested too deep to be pickled",
            fix="bound the depth of its trees (max_depth=, max_nodes=)",
        ) from error
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ClassRefused(
            f"{type(learner).__qualname__} cannot be pickled",
            why=str(error),
            fix="define its classes and functions at the top level of the project file",
        ) from error
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    """Writes a member of an enumeration by its value: early releases of Python 3.11 write `getattr` instead."""

    def reducer_override(self, obj: Any) -> Any:
        """Returns how one object is written, or that it is written as ever."""
        return (type(obj), (obj.value,)) if isinstance(obj, enum.Enum) else NotImplemented


def _without_state(left_out: set[int]) -> Callable[[Any], Any]:
    def reduce(generator: Any) -> Any:
        return (type(generator), ()) if id(generator) in left_out else generator.__reduce_ex__(5)

    return reduce


_STANDARD: dict[str, frozenset[str]] = {
    "builtins": frozenset(
        {"bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "iter", "list"}
        | {"object", "range", "set", "slice", "str", "tuple"}
    ),
    "array": frozenset({"array", "_array_reconstructor"}),
    "collections": frozenset({"Counter", "OrderedDict", "defaultdict", "deque"}),
    "copy": frozenset({"deepcopy"}),  # River's SoftmaxRegression and OneVsOne hold it in a partial
    "copyreg": frozenset({"_reconstructor"}),
    "datetime": frozenset({"date", "datetime", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "functools": frozenset({"partial"}),
    "random": frozenset({"Random"}),
    "statistics": frozenset({"NormalDist"}),
    "uuid": frozenset({"UUID"}),
    "zoneinfo": frozenset({"ZoneInfo", "ZoneInfo._unpickle"}),
    "numpy": frozenset({"array", "dtype", "ndarray", "ones", "zeros"}),
    "numpy._core.multiarray": frozenset({"_reconstruct", "scalar"}),
    "numpy._core.numeric": frozenset({"_frombuffer"}),
    "numpy.random._generator": frozenset({"Generator"}),
    "numpy.random._mt19937": frozenset({"MT19937"}),
    "numpy.random._pcg64": frozenset({"PCG64", "PCG64DXSM"}),
    "numpy.random._pickle": frozenset({"__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor"}),
    "numpy.random.bit_generator": frozenset({"SeedSequence", "__pyx_unpickle_SeedSequence"}),
    "numpy.random.mtrand": frozenset({"RandomState"}),
}
# Parts of River that download, open files or run other code; no learner holds anything of theirs.
_NOT_LEARNERS = frozenset({"checks", "datasets", "evaluate", "stream"})


class _Unpickler(pickle.Unpickler):
    """Unpickles River, a fixed list of plain things, and what the project names; refuses all else by name."""

    def __init__(self, body: io.BytesIO, allow: frozenset[str]) -> None:
        super().__init__(body)
        self._allow = allow

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _bound_method
        if name in _STANDARD.get(module, ()):
            return super().find_class(module, name)
        if module in self._allow or _is_of_river(module):
            found = self._look_up(module, name)
            # A module also reaches whatever it imported: only what it defines itself may pass.
            defined = isinstance(found, type | types.FunctionType | types.BuiltinFunctionType)
            if defined and (found.__module__, found.__qualname__) == (module, name):
                return found
        raise _refused(f"{module}.{name}")

    def _look_up(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            raise ClassRefused(
                f"a snapshot names {module}.{name}, which is not there any more",
                fix="bring it back under this name, or rebuild the version from its samples",
            ) from error


def _is_of_river(module: str) -> bool:
    top, _, rest = module.partition(".")
    return top == "river" and rest.partition(".")[0] not in _NOT_LEARNERS


def _bound_method(owner: Any, name: str) -> Any:
    """What pickle calls getattr for: a method bound to an object of the learner, and nothing else."""
    if not name.startswith("__"):
        found = getattr(owner, name, None)
        if isinstance(found, types.MethodType | types.BuiltinMethodType) and found.__self__ is owner:
            return found
        if owner is str and isinstance(found, types.MethodDescriptorType):
            return found  # `str.lower`, which River's text steps hold
    raise _refused(f"getattr({type(owner).__qualname__}, {name!r})")


def _refused(what: str) -> ClassRefused:
    return ClassRefused(
        f"a snapshot names {what}, which is not on the list of what a learner may hold",
        fix="if it is yours, name its module in the project; else do not use this snapshot",
    )
