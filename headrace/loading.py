"""Loading a project file: the user's Python, by its path, beside our packages and never in their place."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import features
import models
import serving
import streams
from features.errors import DefinitionError, HeadraceError
from models import Project

_OURS = (features, models, serving, streams)


class Loaded(NamedTuple):
    """A project and the modules that its learners may come from."""

    project: Project
    modules: tuple[str, ...]


def load(path: str | Path, *, check_learners: bool = True) -> Loaded:
    """Returns the project of a file.

    Args:
        path: the file; what stands beside it can be imported by it.
        check_learners: train every learner twice on made-up samples and refuse one that is not a function of them.

    Raises:
        DefinitionError: the file is missing, does not run, or declares no single project.
    """
    file = Path(path).resolve()
    _check_packages()
    if not file.is_file():
        raise DefinitionError(
            f"there is no file {path}", fix="give the path of a project file, such as payments.py"
        )
    before = set(sys.modules)
    module = _run(file)
    found = [value for value in vars(module).values() if isinstance(value, Project)]
    if len(found) != 1:
        raise DefinitionError(
            f"{file.name} declares {len(found)} projects",
            fix='write one: project = Project("payments", fraud)',
        )
    if check_learners:
        found[0].check_learners()
    beside = tuple(
        name
        for name, loaded in sys.modules.items()
        if name not in before
        and getattr(loaded, "__file__", None)
        and Path(loaded.__file__ or "").parent == file.parent
    )
    return Loaded(found[0], beside)


def _run(file: Path) -> object:
    name = file.stem
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(file):
            return known
        raise DefinitionError(
            f"{file.name} has the name of another module, {getattr(known, '__file__', None) or name}",
            fix="rename the file",
        )
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise DefinitionError(f"{file.name} is not a Python file", fix="give it the ending .py")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(file.parent))  # after ours: a folder called features beside the file shadows nothing
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except HeadraceError as error:
        del sys.modules[name]
        error.where = _line(error, file) + (f", {error.where}" if error.where else "")
        raise
    except Exception as error:
        del sys.modules[name]
        raise DefinitionError(f"{type(error).__name__}: {error}", where=_line(error, file)) from error
    return module


def _line(error: BaseException, file: Path) -> str:
    """Returns the last line of the user's file on the way to an error."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if not lines:
        return file.name
    return f"{file.name}, line {lines[-1].lineno}: {lines[-1].line}"


def _check_packages() -> None:
    places = {Path(package.__file__ or "").parent.parent for package in _OURS}
    if len(places) != 1:
        raise DefinitionError(
            "Headrace's packages come from more than one place: " + ", ".join(sorted(map(str, places))),
            why="a folder called features, models, serving or streams stands before ours on the path",
            fix="run headrace from another folder, or rename that one",
        )
