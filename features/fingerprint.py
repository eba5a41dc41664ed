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
    parts.extend(
        f"{name}={_value(value, name, function, seen)}" for name, value in sorted(_reads(function).items())
    )
    defaults = (*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items()))
    parts.extend(f"default={_value(default, 'a default', function, seen)}" for default in defaults)
    seen[id(function)] = short_digest("\n".join(parts).encode())
    return seen[id(function)]


def _tree(function: Any) -> ast.AST:
    wanted = function.__code__
    try:
        source = textwrap.dedent(inspect.getsource(wanted))  # of the code: a wrapper is not what it wraps
    except (OSError, TypeError) as error:
        raise DefinitionError(
            f"the source of {function.__qualname__} cannot be read",
            fix="define it with `def` in the project file",
        ) from error
    try:
        module = ast.parse(source)
    except SyntaxError:  # a lambda on a line that is only part of a statement
        module = ast.Module([], [])
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name == wanted.co_name:
            bare: ast.AST = _Bare().visit(node)
            return bare
        if (
            isinstance(node, ast.Lambda)
            and wanted.co_name == "<lambda>"
            and _meaning(_compiled(node)) == _meaning(wanted)
        ):
            return node
    raise DefinitionError(
        f"the source of {function.__qualname__} cannot be told apart", fix="write it as a `def` of its own"
    )


class _Bare(ast.NodeTransformer):
    """Takes away what has no effect: docstrings, annotations, and decorators, whose work is in the function itself."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list = []
        node.returns = None
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.Assign | None:
        self.generic_visit(node)
        return None if node.value is None else ast.Assign([node.target], node.value)


def _compiled(node: ast.Lambda) -> types.CodeType:
    code = compile(ast.fix_missing_locations(ast.Expression(node)), "<lambda>", "eval")
    return next(c for c in code.co_consts if isinstance(c, types.CodeType))


def _meaning(code: types.CodeType) -> tuple[Any, ...]:
    consts = [_meaning(c) if isinstance(c, types.CodeType) else (type(c), c) for c in code.co_consts]
    return (code.co_code, code.co_names, code.co_varnames, consts)


def _reads(function: Any) -> dict[str, Any]:
    """Returns the values that a function, and whatever is nested in it, takes from outside."""
    code = function.__code__
    outside = {
        name: cell.cell_contents
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
        if name != "__class__"  # of `super()`: whoever asks for a method asks for those of its bases
    }
    for name in _global_names(code):
        if name in function.__globals__:
            outside[name] = function.__globals__[name]
        elif hasattr(builtins, name):
            outside[name] = getattr(builtins, name)
        else:
            raise DefinitionError(
                f"{function.__qualname__} reads {name}, which is not defined", fix="define or import it above"
            )
    return outside


def _global_names(code: types.CodeType) -> set[str]:
    names = set()
    for i in dis.get_instructions(code):
        if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(i.argval)
        elif i.opname == "IMPORT_NAME" and i.argval.partition(".")[0] not in sys.stdlib_module_names:
            raise DefinitionError(
                f"{code.co_name} imports {i.argval or 'a module'} when it is called",
                why="what it takes from there cannot be told when the project is loaded",
                fix="import it at the top of the file",
            )
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _value(value: Any, name: str, function: Any, seen: dict[int, str]) -> str:
    for told in (_constant, _named):
        text = told(value)
        if text is not None:
            return text
    if isinstance(value, tuple):
        return f"({', '.join(_value(item, name, function, seen) for item in value)})"
    if isinstance(value, frozenset):
        return f"frozen {sorted(_value(item, name, function, seen) for item in value)}"
    if isinstance(value, type) and issubclass(value, enum.Enum):
        return f"enum {[_value(member, name, function, seen) for member in value]}"
    if isinstance(value, types.FunctionType):
        return f"function {_function(value, seen)}"
    raise DefinitionError(
        f"{function.__qualname__} reads {name}, a {type(value).__name__}",
        why="its value can change while the project runs, so that training and serving could disagree",
        fix="use a constant (a number, text, tuple or frozenset), an argument or another function",
    )


def _constant(value: Any) -> str | None:
    """Returns the text of a value that cannot change."""
    if isinstance(value, ZoneInfo):
        return f"zone {value.key}"
    if value is None or isinstance(
        value, str | int | float | bool | bytes | date | datetime | timedelta | enum.Enum
    ):
        return f"{type(value).__name__} {value!r}"
    return None


def _named(value: Any) -> str | None:
    """Returns the name of what Python itself or an event class defines, which changes with their versions only."""
    if isinstance(value, types.MemberDescriptorType):
        return f"column {value.__objclass__.__qualname__}.{value.__name__}"
    if isinstance(value, types.BuiltinFunctionType):
        return f"library {value.__module__}.{value.__qualname__}" if _of_a_module(value) else None
    if isinstance(value, types.ModuleType):
        return f"library {value.__name__}" if _standard(value.__name__) else None
    if isinstance(value, types.FunctionType):
        return f"library {value.__module__}.{value.__qualname__}" if _standard(value.__module__) else None
    if isinstance(value, type) and not issubclass(value, enum.Enum):
        ours = issubclass(value, msgspec.Struct | BaseException | int | float | str)
        return (
            f"class {value.__module__}.{value.__qualname__}" if ours or _standard(value.__module__) else None
        )
    return None


def _of_a_module(function: types.BuiltinFunctionType) -> bool:
    """Whether a function is not bound to an object that could change."""
    return function.__self__ is None or isinstance(function.__self__, types.ModuleType)


def _standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names
