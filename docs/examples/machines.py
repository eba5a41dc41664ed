"""Machines that report every few seconds: which report is odd? No labels; the model learns what is usual."""

from datetime import datetime

from msgspec import Struct
from river.anomaly import HalfSpaceTrees
from river.preprocessing import MinMaxScaler

from features import Entity, FeatureView, Max, Mean, Source, StdDev
from models import ModelSpec, Project


class Report(Struct, frozen=True):
    id: str
    machine: str
    celsius: float
    vibration: float
    at: datetime


reports = Source("plant.reports.v1", Report, id=Report.id, time=Report.at, key=Report.machine, lateness="5m")

machine = Entity("machine", by=Report.machine)


class Recent(FeatureView, of=machine, source=reports, own_event=False):
    warmth_10m = Mean(Report.celsius).over("10m")
    spread_10m = StdDev(Report.celsius).over("10m")
    shaking_1h = Max(Report.vibration).over("1h")


def rise(report: Report, recent: Recent) -> float:
    return report.celsius - recent.warmth_10m if recent.warmth_10m is not None else 0.0


odd = ModelSpec(
    "odd",
    request=reports,
    inputs=[Report.celsius, Report.vibration, Recent, rise],
    learner=MinMaxScaler() | HalfSpaceTrees(seed=7),
    threshold=0.95,
)

project = Project("plant", odd)
