"""Fingerprints: what a definition means, as a digest.

A function's part is its syntax tree without docstring and positions, the values of the globals and the closure that it
reads, and the same of every function it calls, recursively. Bytecode alone would miss a changed constant or helper; a
name alone would miss everything.
"""

from __future__ import annotations

import ast
import builtins
import dis
import enum
import hashlib
import inspect
import math
import sys
import textwrap
import types
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from .errors import DefinitionError


def short_digest(data: bytes) -> str:
    """Returns 128 bits of SHA-256 as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()[:32]


def function_fingerprint(function: Callable[..., Any]) -> str:
    """Returns the digest of what a pure function does.

    Raises:
        DefinitionError: it reads something whose value can change or cannot be told; the message names it.
    """
    seen: dict[int, str] = {}
    return short_digest(_function(function, seen).encode())


def _function(function: Any, seen: dict[int, str]) -> str:
    if id(function) in seen:
        return seen[id(function)]
    seen[id(function)] = f"recursion {function.__qualname__}"
    node = _tree(function)
    parts = [ast.dump(node, annotate_fields=True, include_attributes=False)]
    for name, value in sorted(_reads(function).items()):
        parts.append(f"{name}={_value(value, name, function, seen)}")
    for default in (*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())):
        parts.append(f"default={_value(default, 'a default', function, seen)}")
    seen[id(function)] = short_digest("\n".join(parts).encode())
    return seen[id(function)]


def _tree(function: Any) -> ast.AST:
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise DefinitionError(
            f"the source of {function.__qualname__} cannot be read",
            fix="define it with `def` in the project file",
        ) from error
    try:
        module = ast.parse(source)
    except SyntaxError:  # a lambda on a line that is only part of a statement
        module = ast.Module([], [])
    wanted = function.__code__
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__:
            node.decorator_list = []
            node.returns = None
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                argument.annotation = None
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            return node
        if isinstance(node, ast.Lambda) and function.__name__ == "<lambda>":
            if _code_of(node) == wanted.co_code:
                return node
    raise DefinitionError(
        f"the source of {function.__qualname__} cannot be told apart", fix="write it as a `def` of its own"
    )


def _code_of(node: ast.Lambda) -> bytes:
    code = compile(ast.fix_missing_locations(ast.Expression(node)), "<lambda>", "eval")
    return next(c for c in code.co_consts if isinstance(c, types.CodeType)).co_code


def _reads(function: Any) -> dict[str, Any]:
    """Returns the values that a function, and whatever is nested in it, takes from outside."""
    code = function.__code__
    outside = {
        name: cell.cell_contents
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
    }
    for name in _global_names(code):
        if name in function.__globals__:
            outside[name] = function.__globals__[name]
        elif hasattr(builtins, name):
            outside[name] = getattr(builtins, name)
        else:
            raise DefinitionError(f"{function.__qualname__} reads {name}, which is not defined")
    return outside


def _global_names(code: types.CodeType) -> set[str]:
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _value(value: Any, name: str, function: Any, seen: dict[int, str]) -> str:
    if value is None or isinstance(
        value, str | int | float | bool | bytes | date | datetime | timedelta | enum.Enum
    ):
        if isinstance(value, float) and not math.isfinite(value):
            return f"float {value!r}"
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, tuple):
        return f"({', '.join(_value(item, name, function, seen) for item in value)})"
    if isinstance(value, frozenset):
        return f"frozen {sorted(_value(item, name, function, seen) for item in value)}"
    if isinstance(value, types.FunctionType):
        if value.__module__.partition(".")[0] in sys.stdlib_module_names:
            return f"library {value.__module__}.{value.__qualname__}"
        return f"function {_function(value, seen)}"
    if isinstance(value, types.BuiltinFunctionType):
        return f"library {value.__module__}.{value.__qualname__}"
    if isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] in sys.stdlib_module_names:
        return f"library {value.__name__}"
    if isinstance(value, type) and issubclass(
        value, msgspec.Struct | enum.Enum | BaseException | int | float | str
    ):
        return f"class {value.__module__}.{value.__qualname__}"
    if isinstance(value, type) and value.__module__.partition(".")[0] in sys.stdlib_module_names:
        return f"class {value.__module__}.{value.__qualname__}"
    if isinstance(value, ZoneInfo):
        return f"zone {value.key}"
    if isinstance(value, types.MemberDescriptorType):
        return f"column {value.__objclass__.__qualname__}.{value.__name__}"
    raise DefinitionError(
        f"{function.__qualname__} reads {name}, a {type(value).__name__}",
        why="its value can change while the project runs, so that training and serving could disagree",
        fix="use a constant (a number, text, tuple or frozenset), an argument or another function",
    )
