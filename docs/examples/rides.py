"""Taxi rides: how long will this one take? A number to predict, from the time of day and the last hour's traffic."""

from datetime import datetime

from msgspec import Struct
from river.linear_model import LinearRegression
from river.preprocessing import StandardScaler

from features import Count, Entity, FeatureView, Mean, Quantile, Source, haversine_km, hour, weekend
from models import Label, ModelSpec, Project


class Pickup(Struct, frozen=True):
    ride: str
    zone: str
    from_lat: float
    from_lon: float
    to_lat: float
    to_lon: float
    at: datetime


class Dropoff(Struct, frozen=True):
    ride: str
    zone: str
    minutes: float
    at: datetime


pickups = Source("taxi.pickups.v1", Pickup, id=Pickup.ride, time=Pickup.at, key=Pickup.zone)
dropoffs = Source("taxi.dropoffs.v1", Dropoff, id=Dropoff.ride, time=Dropoff.at, key=Dropoff.zone)

zone = Entity("zone", by=(Pickup.zone, Dropoff.zone))  # found in both kinds of events


class Demand(FeatureView, of=zone, source=pickups):
    rides_15m, rides_1h = Count().over("15m", "1h")


class Traffic(FeatureView, of=zone, source=dropoffs):
    minutes_1h = Mean(Dropoff.minutes).over("1h")
    slow_1h = Quantile(Dropoff.minutes, 0.9).over("1h")


def distance_km(ride: Pickup) -> float:
    return haversine_km(ride.from_lat, ride.from_lon, ride.to_lat, ride.to_lon)


duration = ModelSpec(
    "duration",
    request=pickups,
    inputs=[distance_km, hour(Pickup.at, tz="America/New_York"), weekend(Pickup.at), Demand, Traffic],
    label=Label(dropoffs, value=Dropoff.minutes, within="6h"),
    learner=StandardScaler() | LinearRegression(),
)

project = Project("taxi", duration)
