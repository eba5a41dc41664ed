"""Opening a project: loaded and checked, with every refusal at its line in the user's file."""

from __future__ import annotations

import ast
from pathlib import Path

from features.errors import HeadraceError

from .loading import Loaded, load


def open_project(file: Path, *, check_learners: bool = True) -> Loaded:
    """Returns the project of a file.

    Args:
        file: the project file.
        check_learners: train every learner twice on made-up samples; commands that only look can do without.

    Raises:
        DefinitionError: the file cannot be used; names the line.
    """
    loaded = load(file, check_learners=False)
    for model in loaded.project.models if check_learners else ():
        try:
            model.check_learner()
        except HeadraceError as error:
            line = line_of_model(file, model.name)
            error.where = ", ".join(filter(None, (line, f"model {model.name!r}", error.where)))
            raise
    return loaded


def line_of_model(file: Path, name: str) -> str:
    """Returns the line that declares a model's learner, or the model; empty where neither is written out."""
    source = file.read_text()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not _names(node, name):
            continue
        learner = next((word.value for word in node.keywords if word.arg == "learner"), node)
        text = source.splitlines()[learner.lineno - 1].strip()
        return f"{file.name}, line {learner.lineno}: {text}"
    return ""


def _names(call: ast.Call, name: str) -> bool:
    made = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = [*call.args[:1], *(word.value for word in call.keywords if word.arg == "name")]
    return made == "ModelSpec" and any(isinstance(a, ast.Constant) and a.value == name for a in given)
