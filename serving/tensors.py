"""Tensors of the Open Inference Protocol: checked, flattened and turned into vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from .problems import Problem

DATATYPES = {float: "FP64", int: "INT64", bool: "BOOL", str: "BYTES"}

_INTEGERS = frozenset({f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)})
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_KINDS: dict[str, tuple[type, ...]] = {
    "BOOL": (bool,),
    "BYTES": (str,),
    **dict.fromkeys(_INTEGERS, (int,)),
    **dict.fromkeys(_FLOATS, (float, int)),
}


class InputTensor(Struct):
    """A tensor of a request."""

    name: str
    shape: list[Annotated[int, Meta(ge=0)]]
    datatype: str
    data: list[Any]


class OutputWanted(Struct):
    """The name of a tensor that the caller wants."""

    name: str


class InferenceRequest(Struct):
    """The body of `infer`."""

    inputs: list[InputTensor]
    id: str | None = None
    outputs: list[OutputWanted] = field(default_factory=list)


def tensor(
    name: str, datatype: str, shape: Sequence[int], data: Sequence[Any], *, nullable: bool = False
) -> list[Any]:
    """Returns the elements of a tensor in row-major order.

    Raises:
        Problem: its shape is not that of its data, or an element is not of its datatype.
    """
    kinds = _KINDS.get(datatype)
    if kinds is None:
        raise _bad(f"{name} has the unknown datatype {datatype!r}")
    try:
        flat = list(_flat(data))
    except RecursionError as error:
        raise _bad(f"{name} is nested too deep") from error
    if prod(shape) != len(flat):
        raise _bad(f"{name} has the shape {list(shape)} and {len(flat)} elements")
    for k, value in enumerate(flat):
        if value is None and nullable:
            continue
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise _bad(f"{name}[{k}] is {value!r}, which is no {datatype}")
        if isinstance(value, int) and datatype in _INTEGERS and not _fits(value, datatype):
            raise _bad(f"{name}[{k}] is beyond {datatype}")
    if datatype not in _FLOATS:
        return flat
    try:
        return [None if value is None else float(value) for value in flat]
    except OverflowError as error:
        raise _bad(f"{name} holds an integer beyond {datatype}") from error


def columns_to_rows(
    slots: Mapping[str, tuple[str, bool]], given: Sequence[tuple[str, str, Sequence[int], Sequence[Any]]]
) -> list[list[Any]]:
    """Returns vectors, made of one tensor for each slot.

    Args:
        slots: datatype, and whether it may be null, of each slot, in the order of the vector.
        given: name, datatype, shape and data of each tensor, in any order.

    Raises:
        Problem: a tensor is missing, unknown, given twice or not like its slot.
    """
    columns: dict[str, list[Any]] = {}
    for name, datatype, shape, data in given:
        if name not in slots:
            raise _bad(f"there is no input {name!r}")
        if name in columns:
            raise _bad(f"the input {name!r} is given twice")
        declared, nullable = slots[name]
        if _family(datatype) != _family(declared):
            raise _bad(f"{name} is {datatype}; it must be {declared}")
        columns[name] = tensor(name, datatype, shape, data, nullable=nullable)
    missing = [name for name in slots if name not in columns]
    if missing:
        raise _bad(f"the input {missing[0]!r} is missing")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise _bad(f"the inputs have {sorted(lengths)} elements; each must have one for every row")
    return [list(row) for row in zip(*(columns[name] for name in slots), strict=True)]


def _fits(value: int, datatype: str) -> bool:
    bits = int(datatype.rpartition("T")[2])
    return 0 <= value < 1 << bits if datatype.startswith("U") else -(1 << bits - 1) <= value < 1 << bits - 1


def _family(datatype: str) -> str:
    if datatype in _INTEGERS:
        return "integer"
    return "float" if datatype in _FLOATS else datatype


def _flat(data: Sequence[Any]) -> Iterator[Any]:
    for item in data:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item


def _bad(what: str) -> Problem:
    return Problem(400, "bad-input", "Bad input", what)
