"""Models: what learns and predicts, and the project that declares it."""

from .label import Label
from .project import Project
from .spec import Model, ModelSpec
from .task import Task

__all__ = ["Label", "Model", "ModelSpec", "Project", "Task"]
