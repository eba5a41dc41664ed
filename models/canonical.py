"""Canonical bytes of a model: when are two learners the same?

Pickle cannot tell: its bytes depend on which strings happen to be one object, on the hash seed and on the
order of sets. Here the object graph is walked in a fixed order and written by value:

- numbers by their bits, strings by value, numpy arrays and scalars by dtype, shape and bytes;
- sets sorted by the canonical bytes of their elements, dicts in insertion order (a function of the samples:
  learners iterate over them), attributes by name (their order is not: a restart may change it);
- classes and functions by their qualified name, everything else by the reduce protocol of pickle;
- mutable objects by the index of their first visit when met again, so sharing and cycles count; immutable
  values are written each time: whether two equal ones are one object is an accident of interning;
- random generators by their state, except below an owner whose `seed` is None: its start is drawn from the
  system and says nothing about what was learned (whether it *matters*, `models.determinism` finds out).

The walk keeps its own stack: a deep tree does not meet the recursion limit. The bytes are of the learner as
it stands: only its single writer, between two samples, may ask for them.
"""

import copyreg
import datetime as dt
import decimal
import enum
import fractions
import functools
import hashlib
import marshal
import pathlib
import pickle
import random
import re
import struct
import types
import uuid
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
from river.compose import Pipeline

from models.errors import NotCanonical

# Version 2 of marshal knows no references and no interning: equal atoms give equal bytes, at the speed of C.
# `tests/models/test_canonical.py` pins its bytes, so a Python that changed them could not go unnoticed.
_MARSHAL = 2
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
GENERATORS: Final = (random.Random, np.random.RandomState, np.random.Generator, np.random.BitGenerator)
_NAMED = (type, types.FunctionType, types.BuiltinFunctionType)
_IMMUTABLE = (
    *(int, float, complex, str, bytes, tuple, range, slice, type(...), type(NotImplemented)),
    *(dt.date, dt.time, dt.timedelta, dt.tzinfo, decimal.Decimal, fractions.Fraction),
    *(uuid.UUID, pathlib.PurePath, re.Pattern, np.dtype, np.ufunc, types.MethodType),
    *(types.MethodDescriptorType, types.WrapperDescriptorType, types.GenericAlias),
)
# What a pipeline derives from its steps at the first prediction: no version may depend on who asked first.
_DERIVED = frozenset({"_plan", "_inference_transformers", "_last_step_cached", "_last_step_params"})

# Parts of the bytes that are hashed at once.
_CHUNK = 16384

# Tags lie below every type code of marshal, so the two cannot be mistaken for each other.
_TUPLE, _LIST, _DICT, _SET, _REF = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05%d;"
_CLASS, _OBJECT, _REDUCED, _NAME, _MEMBER = b"\x06", b"\x07%d;", b"\x08", b"\x09", b"\x0a"
_ARRAY, _SCALAR, _GENERATOR, _UNSEEDED = b"\x0b", b"\x0c", b"\x0d", b"\x0e"


def canonical_bytes(model: object) -> bytes:
    """The same bytes for the same model, in any process.

    Raises:
        NotCanonical: the model holds a lambda, a local function or class, a lock, an open file, a set of
            objects hashed by address, or anything else without a name or a value. The message says where.
    """
    parts: list[bytes] = []
    _encode(model, parts.append)
    return b"".join(parts)


class Digest(NamedTuple):
    """What one walk finds out about a model."""

    hex: str
    """SHA-256 of the canonical bytes."""
    unseeded: list[object]
    """The generators that the bytes leave out: every owner with a `seed` has None in it."""


def digest(model: object) -> str:
    """SHA-256 of the canonical bytes, in hex.

    Raises:
        NotCanonical: see `canonical_bytes`.
    """
    return digest_and_unseeded(model).hex


def digest_and_unseeded(model: object) -> Digest:
    """The digest, and the generators that it leaves out; the bytes are not all held in memory.

    Raises:
        NotCanonical: see `canonical_bytes`.
    """
    sha = hashlib.sha256()
    parts: list[bytes] = []

    def write(part: bytes) -> None:
        parts.append(part)
        if len(parts) >= _CHUNK:
            sha.update(b"".join(parts))
            parts.clear()

    unseeded = _encode(model, write)
    sha.update(b"".join(parts))
    return Digest(sha.hexdigest(), unseeded)


def _encode(model: object, write: Callable[[bytes], object]) -> list[object]:
    walk = _Walk(write)
    try:
        walk.run(model)
    except _UnwritableError as refusal:
        raise NotCanonical(
            "a learner cannot be written down, so its versions could not be compared",
            where=_path_to(model, refusal.offender),
            why=refusal.reason,
            fix=refusal.fix,
        ) from refusal
    return [generator for generator in walk.unseeded if id(generator) not in walk.visited]


class _UnwritableError(Exception):
    """Something below the model cannot be written; the path to it is looked for only then."""

    def __init__(self, offender: object, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.offender, self.reason, self.fix = offender, reason, fix


class _Scope(NamedTuple):
    """On the stack: from here on, generators belong (again) to an owner with or without a seed."""

    seedless: bool


class _Layout:
    """How instances of one class with one set of attributes are written."""

    __slots__ = ("names", "pick", "seeded", "tag")

    def __init__(self, names: Sequence[str], tag: bytes) -> None:
        self.names = names
        self.pick: Callable[[dict[str, Any]], tuple[Any, ...]]
        if len(names) > 1:
            self.pick = itemgetter(*names)
        else:
            self.pick = lambda attributes: tuple(attributes[name] for name in names)
        self.seeded = "seed" in names
        self.tag = tag


class _Walk:
    """One walk over one model."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write
        self.stack: list[Any] = []
        self.seedless = False
        self.unseeded: list[object] = []
        self.visited: dict[int, int] = {}
        # What __reduce_ex__ returns is made for us: were it freed, its ids would be given to other objects.
        self.alive: list[object] = []
        self.handlers: dict[type, Callable[[Any], None]] = {}
        self.layouts: dict[tuple[type, tuple[str, ...]], _Layout] = {}
        self.tags: dict[tuple[type, tuple[str, ...]], bytes] = {}

    def run(self, model: object) -> None:
        stack, handlers = self.stack, self.handlers
        stack.append(model)
        while stack:
            value = stack.pop()
            handler = handlers.get(type(value))
            if handler is None:
                handler = handlers[type(value)] = self._handler(value)
            handler(value)

    def _handler(self, value: Any) -> Callable[[Any], None]:
        cls = type(value)
        if cls in _ATOMS:
            return self._atom
        exact: dict[type, Callable[[Any], None]] = {
            tuple: lambda items: self._values(_TUPLE, items),
            list: self._list,
            dict: self._dict,
            _Scope: self._scope,
            random.Random: self._mersenne,
            np.ndarray: self._array,
        }
        if cls in exact:
            return exact[cls]
        by_base: Sequence[tuple[type | tuple[type, ...], Callable[[Any], None]]] = (
            (_NAMED, self._named),
            (enum.Enum, self._member),
            (np.generic, self._scalar),
            (frozenset, self._frozen),
            (set, self._set),
            (GENERATORS, self._generator),
            (functools.partial, self._partial),
            (_IMMUTABLE, self._reduced),
        )
        for base, handler in by_base:
            if issubclass(cls, base):
                return handler
        return self._plain if _is_plain(value) else self._object

    # -- containers ----------------------------------------------------------------------------------------

    def _values(self, tag: bytes, values: Sequence[Any]) -> None:
        """Writes a run of values: atoms in place, an ellipsis for each other one, which follow in order."""
        self.write(tag)
        if _ATOMS.issuperset(map(type, values)):
            self.write(marshal.dumps(tuple(values), _MARSHAL))
            return
        atoms = _ATOMS
        self.write(marshal.dumps(tuple([v if type(v) in atoms else ... for v in values]), _MARSHAL))
        self.stack.extend([v for v in reversed(values) if type(v) not in atoms])

    def _seen(self, value: object) -> bool:
        """Writes a reference if the object was met before, else remembers it."""
        index = self.visited.get(id(value))
        if index is None:
            self.visited[id(value)] = len(self.visited)
            return False
        self.write(_REF % index)
        return True

    def _atom(self, value: Any) -> None:
        self.write(marshal.dumps(value, _MARSHAL))

    def _list(self, items: list[Any]) -> None:
        if not self._seen(items):
            self._values(_LIST, items)

    def _dict(self, mapping: dict[Any, Any]) -> None:
        if not self._seen(mapping):
            self._values(_DICT, [*mapping, *mapping.values()])

    def _set(self, items: set[Any]) -> None:
        if not self._seen(items):
            self._frozen(items)

    def _frozen(self, items: set[Any] | frozenset[Any]) -> None:
        elements = sorted(self._element(items, element) for element in items)
        self.write(_SET + b"%d;" % len(elements))
        for element in elements:
            self.write(element)
        self._values(_TUPLE, (_name(type(items)), getattr(items, "__dict__", None)))

    def _element(self, items: object, element: Any) -> bytes:
        cls: Any = type(element)
        if cls in _ATOMS:
            return marshal.dumps(element, _MARSHAL)
        if cls.__hash__ is object.__hash__ and not isinstance(element, _NAMED):
            raise _UnwritableError(
                items,
                f"a set of {cls.__qualname__} objects is ordered by their addresses, not by the samples",
                "keep them in a dict or a list",
            )
        parts: list[bytes] = []
        walk = _Walk(parts.append)
        walk.seedless = self.seedless
        walk.run(element)
        return b"".join(parts)

    # -- objects -------------------------------------------------------------------------------------------

    def _plain(self, value: Any) -> None:
        """Writes an instance of an ordinary class by its attributes, in the order of their names."""
        if self._seen(value):
            return
        attributes = _attributes(value)
        cls = type(value)
        key = (cls, tuple(attributes))
        layout = self.layouts.get(key)
        if layout is None:
            layout = self.layouts[key] = self._layout(*key)
        if layout.seeded:
            self._enter(attributes["seed"] is None)
        self._values(layout.tag, layout.pick(attributes))

    def _layout(self, cls: type, names: tuple[str, ...]) -> _Layout:
        """Writes what the class and its attributes are called, once; instances then only name the index."""
        left_out = _DERIVED if issubclass(cls, Pipeline) else frozenset()
        ordered = tuple(sorted(name for name in names if name not in left_out))
        tag = self.tags.get((cls, ordered))
        if tag is None:
            tag = self.tags[cls, ordered] = _OBJECT % len(self.tags)
            self.write(_CLASS + marshal.dumps((_name(cls), *ordered), _MARSHAL))
        return _Layout(ordered, tag)

    def _object(self, value: Any) -> None:
        if not self._seen(value):
            self._reduced(value)

    def _reduced(self, value: Any) -> None:
        """Writes an object by what pickle would write: constructor, arguments, state, items."""
        reduced = _reduce(value)
        self.alive.append(reduced)
        if isinstance(reduced, str):
            self._values(_NAME, (type(value).__module__, getattr(value, "__module__", None), reduced))
            return
        padded: tuple[Any, ...] = (*reduced, None, None, None, None)
        make, arguments, state, items, pairs, setter = padded[:6]
        if type(state) is dict and all(type(name) is str for name in state):
            state = {name: state[name] for name in sorted(state)}
        if type(state) is dict and "seed" in state:
            self._enter(state["seed"] is None)
        listed = None if items is None else tuple(items)
        paired = None if pairs is None else tuple(tuple(pair) for pair in pairs)
        self.alive.append((state, listed, paired))
        self._values(_REDUCED, (make, arguments, state, listed, paired, setter))

    def _partial(self, value: functools.partial[Any]) -> None:
        # Its reduce tells whether anyone ever looked at its `__dict__`: None before, {} ever after.
        if not self._seen(value):
            held = (_name(type(value)), value.func, value.args, value.keywords, value.__dict__ or None)
            self.alive.append(held)
            self._values(_REDUCED, held)

    def _enter(self, seedless: bool) -> None:
        if seedless != self.seedless:
            self.stack.append(_Scope(self.seedless))
            self.seedless = seedless

    def _scope(self, scope: _Scope) -> None:
        self.seedless = scope.seedless

    # -- things with a name or a buffer --------------------------------------------------------------------

    def _named(self, value: Any) -> None:
        if _is_bound(value):
            self._reduced(value)
        else:
            self._values(_NAME, (_name(value),))

    def _member(self, member: enum.Enum) -> None:
        self._values(_MEMBER, (_name(type(member)), member.name))

    def _scalar(self, scalar: np.generic) -> None:
        self._values(_SCALAR, (_dtype(scalar.dtype), scalar.tobytes()))

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        if self._seen(array):
            return
        if array.dtype.hasobject:
            self._reduced(array)
        else:
            self._values(_ARRAY, (_dtype(array.dtype), array.shape, array.tobytes()))

    def _mersenne(self, generator: random.Random) -> None:
        if self.seedless or self._seen(generator):
            self._generator(generator)
            return
        _, words, gauss = generator.getstate()
        self._values(_GENERATOR, (struct.pack(f"<{len(words)}I", *words), gauss))

    def _generator(self, generator: object) -> None:
        if self.seedless:
            self.unseeded.append(generator)
            self.write(_UNSEEDED)
        elif not self._seen(generator):
            self._reduced(generator)


# -- one object --------------------------------------------------------------------------------------------


def _name(value: Any) -> str:
    """The qualified name of a class or function.

    Raises:
        _UnwritableError: it is a lambda or local: another process could not find it, nor tell it from others.
    """
    name: str = value.__qualname__
    if "<" in name:
        kind = "class" if isinstance(value, type) else "function"
        what = "a lambda" if name.endswith("<lambda>") else f"the local {kind} {value.__name__}"
        raise _UnwritableError(
            value,
            f"{what} has no name that another process could find it by",
            "define it at the top level of the project file",
        )
    return f"{value.__module__}.{name}"


def _is_bound(value: Any) -> bool:
    """Whether a built-in function is a method of some object (`rng.random`), hence carries its state."""
    if not isinstance(value, types.BuiltinFunctionType):
        return False
    return not isinstance(value.__self__, types.ModuleType | type | None)


def _dtype(dtype: np.dtype[Any]) -> str:
    return dtype.str if dtype.names is None else repr(dtype.descr)


def _attributes(value: Any) -> dict[str, Any]:
    """What an instance of an ordinary class holds, in `__dict__` and in slots."""
    slots = _slots(type(value))
    held: dict[str, Any] = getattr(value, "__dict__", {})
    return {name: getattr(value, name) for name in slots if hasattr(value, name)} | held if slots else held


def _slots(cls: type) -> list[str]:
    """The names of the slots, as pickle itself finds them (mangled where they are private)."""
    names: list[str] = copyreg._slotnames(cls)  # type: ignore[attr-defined]  # noqa: SLF001  # not in the stubs
    return names


def _is_plain(value: Any) -> bool:
    """Whether pickle would write the object as its class and its attributes, and nothing else."""
    cls: Any = type(value)
    protocol = ("__reduce_ex__", "__reduce__", "__getstate__")
    if cls in copyreg.dispatch_table or any(getattr(cls, m) is not getattr(object, m) for m in protocol):
        return False
    reduced = _reduce(value)
    if isinstance(reduced, str) or reduced[1] != (cls,):
        return False
    return all(rest is None for rest in reduced[3:])


def _reduce(value: Any) -> Any:
    reducer = copyreg.dispatch_table.get(type(value))
    try:
        return reducer(value) if reducer is not None else value.__reduce_ex__(4)
    except (TypeError, NotImplementedError, AttributeError, pickle.PicklingError) as error:
        cls = type(value)
        reason = f"a {cls.__module__}.{cls.__qualname__} has no value that could be kept ({error})"
        raise _UnwritableError(value, reason, "leave it out of the learner") from error


# -- where something is ------------------------------------------------------------------------------------


class Place(NamedTuple):
    """One object of a model and the way to it."""

    path: str
    """As one would write it: `Pipeline.steps['ARFClassifier'].seed`."""
    value: Any
    seedless: bool
    """Whether the nearest owner that has a `seed` has None in it."""
    owned: bool
    """Whether any owner has a `seed` at all."""


def explore(model: object) -> Iterator[Place]:
    """Every mutable object of a model once, with its path; nearest the root first.

    Slower than the walk, and meant for messages. Objects that only `__reduce__` shows are not entered.
    """
    frontier = [Place(type(model).__qualname__, model, seedless=False, owned=False)]
    visited: set[int] = set()
    for place in frontier:
        if id(place.value) in visited or type(place.value) in _ATOMS:
            continue
        visited.add(id(place.value))
        yield place
        frontier.extend(_below(place))


def _below(place: Place) -> Iterator[Place]:
    path, value, seedless, owned = place
    if isinstance(value, (*_NAMED, *GENERATORS)):
        return
    if isinstance(value, dict):
        yield from (Place(f"{path}[{key!r}]", item, seedless, owned) for key, item in value.items())
        yield from (Place(f"{path}: key {key!r}", key, seedless, owned) for key in value)
    elif isinstance(value, list | tuple):
        yield from (Place(f"{path}[{index}]", item, seedless, owned) for index, item in enumerate(value))
    if hasattr(value, "__dict__") or _slots(type(value)):
        held = _attributes(value) if not isinstance(value, types.ModuleType) else {}
        if "seed" in held:
            seedless, owned = held["seed"] is None, True
        left_out = _DERIVED if isinstance(value, Pipeline) else frozenset()
        for name, item in held.items():
            if name not in left_out:
                yield Place(f"{path}.{name}", item, seedless, owned)


def _path_to(model: object, offender: object) -> str:
    for place in explore(model):
        if place.value is offender:
            return place.path
    return f"somewhere inside {type(model).__qualname__}"
