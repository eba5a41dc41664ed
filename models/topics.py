"""The topics of a model. All other topics are named by the project file."""

from __future__ import annotations

SENT = "headrace-sent"
"""Header of an event: when its producer sent it, in milliseconds; freshness is measured from it."""


def log_topic(project: str, model: str) -> str:
    """Returns the topic of predictions and labels, from which samples are joined."""
    return f"headrace.{project}.{model}.log.v1"


def samples_topic(project: str, model: str) -> str:
    """Returns the topic of samples, in the one order in which the model learns them."""
    return f"headrace.{project}.{model}.samples.v1"


def dead_letter_topic(topic: str) -> str:
    """Returns where the bad records of a topic go."""
    return f"{topic}.dlq"
